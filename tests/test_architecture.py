"""The folders are the architecture: imports go downwards, not in circles, and only to what a room offers."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
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
MOST_MODULES = 12
SCENARIOS = {Path("tests/server/fleet")}
"""Folders of tests whose subject is several rooms at once."""


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of every import, those inside functions and type-checking blocks included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if node.module and node.module.startswith("lorecall"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


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


def rooms() -> dict[Path, list[Path]]:
    """Return {folder: its modules} for every package, its `__init__` left out."""
    found: dict[Path, list[Path]] = {path.parent: [] for path in modules() if path.name == "__init__.py"}
    for path in modules():
        if path.name != "__init__.py":
            found[path.parent].append(path)
    return found


def module_of(name: str) -> Path | None:
    """Return the module of ours that a dotted name stands for; None for a package, or a name within a module."""
    package, _, rest = name.partition(".")
    path = Path(rest.replace(".", "/") + ".py")
    return path if package == "lorecall" and (ROOT / path).is_file() else None


def unit(path: Path) -> str:
    """Return what counts as one in the search for circles: a room, or a module right in a floor's folder."""
    return str(path if len(path.parts) == 2 else path.parent)


def crossings() -> set[tuple[Path, Path]]:
    """Return (importing module, imported module) for every import from one unit of `unit` into another."""
    return {
        (path, target)
        for path in modules()
        for name in imported((ROOT / path).read_text(encoding="utf-8"))
        if (target := module_of(name)) is not None and unit(target) != unit(path)
    }


def offered(room: Path) -> list[str]:
    """Return the modules that a room offers to others: the `__all__` of its `__init__`."""
    for node in ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


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


def test_no_rooms_import_each_other_in_a_circle() -> None:
    """Rooms can be read one after the other: there is an order in which each imports only earlier ones."""
    graph: dict[str, set[str]] = {}
    for path, target in crossings():
        graph.setdefault(unit(path), set()).add(unit(target))
    try:
        order = tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"rooms in a circle: {' -> '.join(reversed(error.args[1]))}")
    assert "adapters/core" in order


def test_a_room_is_entered_only_by_what_it_offers() -> None:
    """Other rooms import the modules of its `__all__` and no others; and it offers nothing that nobody wants."""
    wanted: dict[Path, set[str]] = {}
    for path, target in crossings():
        if path.parent != target.parent:
            wanted.setdefault(target.parent, set()).add(target.stem)
    found = {str(room): offered(room) for room in rooms()}
    assert found == {str(room): sorted(wanted.get(room, ())) for room in rooms()}


def test_a_room_has_at_most_a_dozen_modules_and_says_what_it_is_for() -> None:
    """No folder grows past what a reader takes in; the `__init__` is one line of text and the list."""
    assert not {str(room): len(files) for room, files in rooms().items() if len(files) > MOST_MODULES}
    for room in rooms():
        tree = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
        docstring = ast.get_docstring(tree)
        assert docstring, room
        assert "\n" not in docstring, room
        assert len(tree.body) == 1 + bool(offered(room)), f"{room}/__init__.py does more than say and list"


def test_the_tests_mirror_the_rooms() -> None:
    """Each folder of tests has the name of a room, or is a scenario over several rooms."""
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    mirrored = {folder for folder in folders if len(folder.parts) > 1 and folder.parts[1] in FOLDERS}
    assert mirrored
    assert {Path(*folder.parts[1:]) for folder in mirrored - SCENARIOS} <= set(rooms())


def test_the_walk_sees_every_folder() -> None:
    """An empty walk would prove nothing: each folder has modules, and imports cross between rooms."""
    assert {path.parts[0] for path in modules()} == set(FOLDERS)
    assert (Path("server/cli/main.py"), Path("adapters/core/errors.py")) in crossings()


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("adapters", "from lorecall.audit.rule import certified"),
        ("adapters", "from lorecall import audit"),
        ("audit", "def lazy():\n    import lorecall.server.cli"),
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
