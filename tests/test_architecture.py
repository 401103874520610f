"""The folders are the architecture: imports go down only, and only the server knows vLLM."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "adapters": {"adapters"},
    "audit": {"audit", "adapters"},
    "server": {"server", "audit", "adapters"},
    "loadtest": {"loadtest"},
}
LOADTEST_COMMAND = Path("server/cli/loadtest.py")
"""The one module that joins the two halves: the command line is the server's, and loadtest stands outside."""
FOLDERS = tuple(ALLOWED)


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of every import, those inside functions and type-checking blocks included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if node.module == "lorecall":
                yield from (f"lorecall.{alias.name}" for alias in node.names)


def forbidden(folder: str, source: str) -> list[str]:
    """Return the imports that a module of `folder` must not have."""
    wrong = []
    for name in imported(source):
        package, _, rest = name.partition(".")
        upwards = package == "lorecall" and rest and rest.partition(".")[0] not in ALLOWED[folder]
        engine = package == "vllm" and folder != "server"
        ours_by_another_name = package in FOLDERS or name.startswith(".")
        if upwards or engine or ours_by_another_name:
            wrong.append(name)
    return wrong


def modules() -> list[Path]:
    """Return every module of the four folders, as paths relative to the root."""
    return [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_module_imports_only_downwards() -> None:
    """Server -> audit -> adapters; loadtest imports none of them; vllm is imported under server/ only.

    Of loadtest only its command knows, so that a server never loads what puts load on it.
    """
    wrong = {
        str(path): found
        for path in modules()
        if (found := forbidden(path.parts[0], (ROOT / path).read_text(encoding="utf-8")))
    }
    command = wrong.pop(str(LOADTEST_COMMAND))
    assert not wrong
    assert all(name.startswith("lorecall.loadtest.") for name in command)


def test_the_walk_sees_every_folder() -> None:
    """An empty walk would prove nothing: each folder has modules."""
    assert {path.parts[0] for path in modules()} == set(FOLDERS)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("adapters", "from lorecall.audit.judging.rule import certified"),
        ("adapters", "from lorecall import audit"),
        ("audit", "def lazy():\n    import lorecall.server.cli.main"),
        ("audit", "from vllm import LLM"),
        ("loadtest", "from lorecall.adapters.core.errors import UsageError"),
        ("server", "import lorecall.loadtest"),
        ("server", "from audit.rule import certified"),
        ("server", "from . import cli"),
    ],
)
def test_a_wrong_import_is_found(folder: str, source: str) -> None:
    """The check bites: upwards, sideways, hidden in a function, by the folder's bare name, or relative."""
    assert forbidden(folder, source)
