"""What the documents say exists, exists."""

import ast
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from lorecall.audit.reports.models import Rate, RateAt, ReportModel
from lorecall.audit.reports.report import (
    Calibration,
    Drawn,
    Membership,
    Multiplicity,
    Roc,
    Sequential,
    TruePositiveRate,
)
from lorecall.server.cli.main import app

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```[a-z-]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
PASSED_ON = {"serve"}  # takes vLLM's options too and passes them to it unchanged


@cache
def tracked() -> tuple[Path, ...]:
    """Return the files of the checkout that git does not ignore."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(ROOT / name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink())


def documents() -> list[Path]:
    """Return every Markdown file."""
    return [path for path in tracked() if path.suffix == ".md"]


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield (document, command line) of the fenced blocks, continuation lines joined, prompts removed."""
    for path in documents():
        for block in FENCE.findall(path.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                yield path.name, re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ "))


def make_targets() -> set[str]:
    """Return the targets that `make help` lists."""
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^  make (\S+)", shown, re.MULTILINE))


def complaint(words: list[str]) -> str:
    """Return what is wrong with a `lorecall` command line, "" if each command and option exists."""
    command: Any = typer.main.get_command(app)
    path: list[str] = []
    while hasattr(command, "commands") and words and words[0][0] not in "-[":
        name = words.pop(0)
        if name not in command.commands:
            return f"no command {' '.join([*path, name])}"
        path.append(name)
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{path} has no {unknown}" if unknown and not PASSED_ON & set(path) else ""


def test_every_lorecall_command_of_the_documents_exists() -> None:
    """Each `lorecall ...` line of a fenced block names a command, and options that this command has."""
    wrong, seen = [], 0
    for name, line in command_lines():
        words = shlex.split(line) if re.match(r"(\S*/)?lorecall\s", line) else []
        ends = (place for place, word in enumerate(words) if word in {"&", "|", ">", "&&"})
        words = words[: next(ends, None)]
        if words:
            seen += 1
            wrong += [f"{name}: {line}: {found}"] if (found := complaint(words[1:])) else []
    assert not wrong
    assert seen


@pytest.mark.parametrize("line", ["nonsense", "audit nonsense", "law fit grid.csv --nonsense"])
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    """The check bites: an unknown command, an unknown sub-command, an unknown option."""
    assert complaint(line.split())


def test_every_make_target_of_the_documents_exists() -> None:
    """Each `make ...` of the documents, in a block or in the text, is a target that `make help` lists."""
    named = {
        target
        for path in documents()
        for target in re.findall(
            r"(?:^|`|\$ )make ([a-z][a-z-]*)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert named
    assert named <= make_targets()


def test_make_help_lists_every_target() -> None:
    """No phony target lacks its line of help."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == make_targets()


def test_the_generated_pages_are_those_of_the_code() -> None:
    """The pages and the JSON Schemas say what `make docs` would write now."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page, text in generate.pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name} is out of date: run `make docs`"


def test_every_link_of_the_documents_leads_somewhere() -> None:
    """Each relative link of a document is a file of the checkout."""
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in documents()
        for target in LINK.findall(path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not broken


def test_each_threat_of_the_security_page_names_tests_that_exist() -> None:
    """Every row of its tables has at least one, by its file below `tests/`."""
    rows = [
        line.strip("|").split("|")
        for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| threat "))
    ]
    assert len(rows) > 40
    for threat, _, tests in rows:
        named = re.findall(r"`([\w/]+\.py)`", tests)
        assert named, threat
        assert not [name for name in named if not (ROOT / "tests" / name).is_file()], threat


STATISTICS: tuple[type[ReportModel], ...] = (
    Rate, RateAt, Sequential, Multiplicity, Calibration, Membership, Roc, TruePositiveRate, Drawn,
)  # fmt: skip
"""The parts of a report that hold rates, p-values and bounds."""
SINGLE = {"epsilon", "threshold", "p_value", "q_value", "chance", "chance_at_most", "log10_pz", "log10_n50"}
"""Those that stand by themselves."""
SETTINGS = {"bound", "confidence"}
"""Numbers among them that were given, not found."""


def rates_table() -> list[list[str]]:
    """Return the rows of the table of rates in docs/audit.md: field, statement, assumption, tests."""
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").partition("### Every rate of a report")[2]
    rows = text.partition("\n## ")[0].splitlines()
    return [row.strip("|").split("|") for row in rows if row.startswith("|") and not row.startswith("|--")][
        1:
    ]


def test_every_rate_of_a_report_is_in_the_table_of_the_audit_page() -> None:
    """Each estimate of the report's models, by its name, with what it says and what it assumes."""
    named = {
        name
        for row in rates_table()
        for name in re.findall(r"[a-z_0-9]+", " ".join(re.findall("`[^`]+`", row[0])))
    }
    estimates = {
        name
        for model in STATISTICS
        for name, field in model.model_fields.items()
        if "float" in str(field.annotation) or name == "interval"
    }
    assert {"low", "high", "area", "false_alarms_at_most", "least_q", "expected"} <= estimates
    assert (estimates | SINGLE) - SETTINGS <= named
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rates_table())


def test_the_tests_that_the_audit_page_names_exist() -> None:
    """Each `file::test` is a function of that file, and each rate has at least one."""
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    named = re.findall(r"`?(tests/[\w/]+\.py)(?:::(\w+))?", text)
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name in functions, f"{file}::{name}"
    for field, _, _, tests in rates_table():
        assert re.search(r"tests/[\w/]+\.py::\w+|the same test", tests), field


def test_no_file_names_a_machine_path_or_a_registry() -> None:
    """Nothing in the tree depends on one machine's folders or on one package index's address."""
    hosts = "|".join(
        rf"{name}\.{end}" for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))
    )
    wrong = re.compile(rf"/(?:work|opt|root)/[a-z]|{hosts}|download\.pytorch|--(?:extra-)?index-{'url'}\b")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        if path.name != "LICENSE" and (match := wrong.search(path.read_bytes().decode("utf-8", "replace")))
    ]
    assert not found
