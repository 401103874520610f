"""How the command ends when something goes wrong that nobody foresaw."""

import pytest
from lorecall.server.cli import main


def broken() -> None:
    """Fail as a bug would, with a text in the message."""
    raise ZeroDivisionError("SECRET")


def test_a_fault_of_ours_is_exit_3_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 means leaks and nothing else; the message could quote a text, so it is not shown."""
    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 3
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "ZeroDivisionError in broken (test_main.py:" in shown
    assert "SECRET" not in shown
    monkeypatch.setenv("LORECALL_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main.main()
