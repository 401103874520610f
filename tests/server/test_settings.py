"""Settings that name what is not there are refused, with the variable and the value."""

import os
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.server.settings import ServerSettings, read_settings

SETS = ("AUDIT_CANDIDATES", "AUDIT_CONTROLS")
FILES = ("API_KEYS_FILE", "REQUIRE_AUDIT", *SETS)
FOLDERS = ("STORE", "AUDIT_SPOOL")


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> str:
    """Return what is said about a bad value; the variable is named."""
    monkeypatch.setenv(f"LORECALL_{name}", str(value))
    with pytest.raises(UsageError) as caught:
        read_settings()
    assert caught.value.param == f"LORECALL_{name}"
    assert caught.value.message.startswith(f"LORECALL_{name}: ")
    return caught.value.message


@pytest.mark.parametrize("name", FILES)
def test_an_absent_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """A file that is there passes; a folder only where a data set may be one."""
    assert f"{tmp_path / 'absent'} is not a file" in refusal(monkeypatch, name, tmp_path / "absent")
    if name not in SETS:
        assert f"{tmp_path} is not a file" in refusal(monkeypatch, name, tmp_path)
    (tmp_path / "there").touch()
    monkeypatch.setenv(f"LORECALL_{name}", str(tmp_path / "there"))
    assert getattr(read_settings(), name.lower()) == tmp_path / "there"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_made_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Below a file there is no folder; one that is not there yet is made later."""
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'} is not a directory" in refusal(monkeypatch, name, tmp_path / "file" / "x")
    monkeypatch.setattr(os, "access", lambda path, _mode: tmp_path not in (path, *path.parents))
    assert "cannot be written to" in refusal(monkeypatch, name, tmp_path / "new")
    monkeypatch.undo()
    monkeypatch.setenv(f"LORECALL_{name}", str(tmp_path / "new" / "deep"))
    assert getattr(read_settings(), name.lower()) == tmp_path / "new" / "deep"


@pytest.mark.parametrize(
    ("roots", "said"),
    [
        ("{there}:{there}/absent", "absent' is not a directory"),
        ('["{there}"]', "not JSON"),
        ("relative", "no absolute path"),
        ("~/adapters", "no absolute path"),
    ],
)
def test_local_roots_are_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, roots: str, said: str
) -> None:
    """Each of them; a JSON list would be one relative path."""
    assert said in refusal(monkeypatch, "LOCAL_ROOTS", roots.format(there=tmp_path))


def test_roots_that_are_there_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Separated as in PATH."""
    monkeypatch.setenv("LORECALL_LOCAL_ROOTS", f"{tmp_path}:/")
    assert read_settings().roots(keyed=True) == (tmp_path, Path("/"))


def test_a_secret_is_not_shown_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are shown of paths only."""
    monkeypatch.setenv("LORECALL_ADMIN_KEY", "a-secret-of-some-length")
    assert "a-secret" not in refusal(monkeypatch, "STORE", "/dev/null/x")


def test_initial_adapters_are_folders_or_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command line's modules stand beside the setting's; no caller may add from where they lie."""
    monkeypatch.chdir(tmp_path)
    settings = ServerSettings(adapters={"a": "here", "b": "hf://org/adapter"})
    both = settings.with_adapters({"c": "/there", "b": "hf://org/adapter"})
    assert both.initial_adapters() == {"a": str(tmp_path / "here"), "b": "hf://org/adapter", "c": "/there"}
    assert both.roots(keyed=True) == ()
    nobody = ServerSettings(adapters={"a": "~nobody-of-that-name/x"})
    assert nobody.initial_adapters() == {"a": str(tmp_path / "~nobody-of-that-name" / "x")}


def test_stale_verdicts_are_renewed_by_a_policy_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without one there is nothing to ask, and nothing to hold the answers against."""
    assert read_settings().reaudit_stale is False
    assert "name one with --require-audit" in refusal(monkeypatch, "REAUDIT_STALE", "true")
    (tmp_path / "policy.yaml").touch()
    monkeypatch.setenv("LORECALL_REQUIRE_AUDIT", str(tmp_path / "policy.yaml"))
    assert read_settings().reaudit_stale is True
