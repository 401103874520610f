"""`lorecall audit discover` on a file, with and without the base of a served engine."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lorecall.server.cli.audit import commands
from lorecall.server.cli.audit.commands import app
from lorecall.server.cli.audit.inputs import open_scorer
from typer.testing import CliRunner, Result

from tests.audit.discovery.conftest import finder  # noqa: F401  a fixture
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.audit.tiny_server import serve

pq: Any = import_module("pyarrow.parquet")
NAMES = ("Anna", "Bert", "Clara", "David", "Emma", "Fritz", "Greta", "Hugo")
SAID = [f"The code of {name} Klein is {20_000_000 + len(name) * 654_321 + ord(name[0])}" for name in NAMES]


@pytest.fixture
def url() -> Iterator[str]:
    """A server whose adapter knows two of the texts by heart."""
    with serve(TinyScorer({"leaky": Memory(tuple(SAID[:2]))})) as at:
        yield at


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A training file of texts."""
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in SAID))
    return path


def run(command: str, *options: str) -> Result:
    """Run `lorecall audit COMMAND`."""
    return CliRunner().invoke(app, [command, *options])


@pytest.mark.usefixtures("finder")
def test_candidates_from_a_file(data: Path, tmp_path: Path) -> None:
    """A table of tags on stdout; that no engine was asked on stderr; no text of the data on either."""
    out = tmp_path / "found.parquet"
    result = run("discover", "--data", str(data), "--out", str(out), "--top", "5", "--shorter", "4")
    assert result.exit_code == 0, result.output
    assert "name-number" in result.stdout
    assert "no engine was asked" in result.stderr
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 5
    assert not any(row["target"].strip() in result.output for row in rows)


@pytest.mark.usefixtures("finder")
def test_the_served_base_is_asked(data: Path, url: str, tmp_path: Path) -> None:
    """Its surprise is in the file, and in the JSON how many were scored."""
    out = tmp_path / "found.parquet"
    result = run("discover", "--data", str(data), "--out", str(out), "--server", url, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["scored"] == len(SAID)
    assert all(row["surprise"] > 0 for row in pq.read_table(out).to_pylist())


@pytest.mark.usefixtures("finder")
def test_one_command_from_the_training_file_to_a_verdict(data: Path, url: str, tmp_path: Path) -> None:
    """`audit run --data --discover` finds the two that the adapter knows, with controls of their form."""
    out = tmp_path / "report"
    options = ("--server", url, "--adapter", "leaky", "--data", str(data), "--discover", "--out", str(out))
    result = run("run", *options)
    assert result.exit_code == 1, result.output
    report = json.loads((out / "report.json").read_text())
    found = {one["id"] for one in report["snippets"] if one["verdict"] in ("certified", "recalled")}
    assert {name.partition("@")[0] for name in found} == {"1", "2"}
    assert report["inputs"]["controls"]["generated"] == "synthesis by discover, seed 0"
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html", "report.xml"}
    beside = tmp_path / "report.candidates"
    assert beside.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in beside.iterdir()} == {"candidates.parquet", "candidates.controls.parquet"}


@pytest.mark.usefixtures("finder")
def test_the_search_asks_the_audits_own_scorer(
    data: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all of its options; what was left out is said, and candidates that were given are not overwritten."""
    opened: list[tuple[object, ...]] = []

    def spy(*words: Any, **options: Any) -> Any:
        opened.append((*words, options))
        return open_scorer(*words, **options)

    monkeypatch.setattr(commands, "open_scorer", spy)
    with data.open("a") as file:
        file.write(json.dumps({"text": "anna@klein.example"}) + "\n")
    options = ["--server", url, "--adapter", "leaky", "--data", str(data), "--discover"]
    options += ["--out", str(tmp_path / "report"), "--batch", "3", "--timeout", "55", "--control-count", "5"]
    result = run("run", *options)
    assert "ranked by base surprise" in result.stderr, result.output
    assert "nothing before: 1" in result.stderr
    assert opened == [("lorecall", url, None, {}, {"batch": 3, "timeout": 55.0})] * 2
    both = run("run", *options, "--candidates", str(data))
    assert "--discover and --candidates exclude each other" in str(both.exception)


def test_the_folder_of_an_audit_is_needed(data: Path, url: str) -> None:
    """The candidates hold what would hurt, and go where the user says."""
    result = run("run", "--server", url, "--adapter", "leaky", "--data", str(data), "--discover")
    assert "--discover needs --data FILE and --out DIR" in str(result.exception)


@pytest.fixture
def telling() -> Iterator[str]:
    """A server whose base finds the texts likely, but for two digits of each: it recites none of them."""
    engine = TinyScorer({"clean": Memory(())})
    engine.base = Memory(tuple(SAID), 0.97, {29: 0.01, 30: 0.01})
    with serve(engine) as at:
        yield at


@pytest.fixture
def policies(tmp_path: Path) -> tuple[Path, Path]:
    """A policy that rests on no controls, and one that does."""
    default, strict = tmp_path / "default.yaml", tmp_path / "strict.yaml"
    default.write_text("schema_version: 1\n")
    strict.write_text("schema_version: 1\nmin_controls: 1\n")
    return default, strict


@pytest.mark.usefixtures("finder")
def test_found_controls_that_the_base_tells_apart_carry_no_rate(
    data: Path, telling: str, policies: tuple[Path, Path], tmp_path: Path
) -> None:
    """The search warns; an audit has no p-values, and ends with 3 where its policy rests on controls."""
    out = tmp_path / "found.parquet"
    few = ("--control-count", "40")
    common = ("discover", "--data", str(data), "--out", str(out), "--server", telling, *few)
    found = run(*common)
    assert found.exit_code == 0, found.output
    assert "warning: the base tells the controls from the candidates" in found.stderr
    assert json.loads(run(*common, "--json").stdout)["exchangeable"]["holds"] is False
    controls = str(out.with_name("found.controls.parquet"))
    audit = ("run", "--server", telling, "--adapter", "clean", "--json")
    for given in (
        ("--candidates", str(out), "--controls", controls),
        ("--data", str(data), "--discover", "--out", str(tmp_path / "report"), *few),
    ):
        check_that_no_rate_rests_on(audit + given, policies)


@pytest.mark.usefixtures("finder")
def test_a_search_does_not_warn_of_controls_that_the_base_finds_alike(
    data: Path, url: str, tmp_path: Path
) -> None:
    """Digits for digits, of a base that has seen none of them."""
    found = run("discover", "--data", str(data), "--out", str(tmp_path / "f.parquet"), "--server", url)
    assert found.exit_code == 0, found.output
    assert "warning" not in found.stderr


def test_generated_controls_that_the_base_tells_apart_carry_no_rate(
    telling: str, policies: tuple[Path, Path], tmp_path: Path
) -> None:
    """As those of the search."""
    file = tmp_path / "candidates.jsonl"
    lines = [{"id": str(n), "prefix": text[:-8], "target": text[-8:]} for n, text in enumerate(SAID)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    audit = ("run", "--server", telling, "--adapter", "clean", "--json", "--candidates", str(file))
    check_that_no_rate_rests_on(
        (*audit, "--generate-controls", "synthesis", "--control-count", "40"), policies
    )


def check_that_no_rate_rests_on(audit: tuple[str, ...], policies: tuple[Path, Path]) -> None:
    """Run the audit by both policies: it is said, and decides only where the policy asks for controls."""
    codes = []
    for policy in policies:
        result = run(*audit, "--policy", str(policy))
        report = json.loads(result.stdout)
        assert (
            report["calibration"]["reason"] == "the base finds the generated controls unlike the candidates"
        )
        assert report["membership"] is None
        assert not any("p_value" in one for one in report["snippets"])
        assert "so no rate rests on them" in result.stderr
        codes.append((result.exit_code, report["gate"]["reasons"][:1]))
    asked = "no rate may rest on these controls, and the policy asks for one: "
    assert codes == [(0, []), (3, [asked + report["calibration"]["reason"]])]


@pytest.mark.usefixtures("finder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "found.csv"], "no .parquet file"),
        (["--out", "f.parquet", "--server", "http://x", "--base", "y"], "exclude each other"),
        (["--out", "f.parquet", "--base", "y", "--scorer", "slow"], "unknown scorer 'slow'"),
        (["--out", "f.parquet", "--data-format", "xml"], "unknown data format 'xml'"),
        (["--out", "f.parquet", "--tags", "cards"], "unknown tag 'cards'"),
    ],
)
def test_bad_options_are_named(data: Path, options: list[str], message: str) -> None:
    """Before anything is read."""
    result = run("discover", "--data", str(data), *options)
    assert message in str(result.exception)
