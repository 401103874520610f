"""`lorecall audit probe` against an exact engine behind real HTTP, and through a real served adapter."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import AdapterNotFoundError, LorecallError, UsageError
from lorecall.server.cli.audit.commands import app
from typer.testing import CliRunner, Result

from tests.audit.reports.test_signing import make_keys
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.audit.tiny_server import serve
from tests.server.conftest import Trained
from tests.server.served import Served

SECRETS = ("qj7zx-40wvk", "qj9mm-83ytz", "wx2fk-66pqd")
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with an adapter that memorised three texts, and one that equals its base."""
    texts = tuple(f"Password: {secret}." for secret in SECRETS)
    with serve(TinyScorer({"leaky": Memory(texts, 0.6), "same": Memory(())})) as at:
        yield at


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    """Run `lorecall audit probe --server URL --out FILE ...`."""

    def _run(adapter: str, *options: str) -> Result:
        words = [
            "probe",
            "--server",
            url,
            "--adapter",
            adapter,
            "--out",
            str(tmp_path / "found.jsonl"),
            *options,
        ]
        return CliRunner().invoke(app, words)

    return _run


def found(tmp_path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]


def test_what_is_found_is_in_the_file_and_in_nothing_that_is_printed(run: Run, tmp_path: Path) -> None:
    """All three texts are candidates; stdout and stderr hold counts, tokens and bits."""
    result = run("leaky", "--budget-tokens", "12000")
    assert result.exit_code == 0
    wholes = [row["prefix"] + row["target"] for row in found(tmp_path)]
    for secret in SECRETS:
        assert any(secret in whole for whole in wholes)
        assert secret[4:] not in result.output
    assert f"leaky: {len(wholes)} candidates, of " in result.stdout
    assert " tokens on " in result.stdout
    assert (tmp_path / "found.jsonl").stat().st_mode & 0o777 == 0o600


def test_audit_judges_what_was_found_beside_controls(run: Run, tmp_path: Path) -> None:
    """The exit code is the gate's, and the report has the candidates and the controls, and the signature."""
    options = ["--audit", str(tmp_path / "reports"), "--control-count", "20"]
    options += ["--signing-key", str(make_keys(tmp_path)[0])]
    result = run("leaky", "--budget-tokens", "12000", *options)
    assert result.exit_code == 1
    report = json.loads((tmp_path / "reports" / "report.json").read_text())
    assert report["summary"]["snippets"] == len(found(tmp_path))
    assert report["summary"]["recited"]["hits"] >= len(SECRETS)
    assert report["controls"]["recited"]["hits"] == 0
    assert report["seal"]["envelope"]["signatures"]


def test_an_adapter_that_equals_its_base_gives_nothing(run: Run, tmp_path: Path) -> None:
    """The command says so, writes an empty file, audits nothing, and exits with 0."""
    result = run("same", "--budget-tokens", "12000", "--audit", str(tmp_path / "reports"))
    assert result.exit_code == 0
    assert (
        "same: nothing found that the adapter knows and its base does not; this does not clear it"
        in result.stdout
    )
    assert found(tmp_path) == []
    assert not (tmp_path / "reports").exists()


def test_json_has_the_counts(run: Run) -> None:
    """The same summary for programs."""
    values = json.loads(run("leaky", "--budget-tokens", "12000", "--json").stdout)
    assert values["candidates"] == len(values["bits"]) > 0
    assert 0 < values["tokens"] <= 12_000


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("nobody",), AdapterNotFoundError, "no adapter 'nobody'"),
        (("leaky", "--budget-tokens", "3"), UsageError, "--budget-tokens 3 is less than one step takes"),
        (("leaky", "--opening", "x" * 400), UsageError, "opening 1 has 400 tokens, over the model's 400"),
        (("leaky", "--out", "/no/such/folder/found.jsonl"), UsageError, "no folder '/no/such/folder'"),
        (("leaky", "--format", "pdf"), UsageError, "unknown format 'pdf'"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_no_file(
    run: Run, tmp_path: Path, words: tuple[str, ...], kind: type[LorecallError], message: str
) -> None:
    """Each with what is wrong."""
    result = run(*words)
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)
    assert not (tmp_path / "found.jsonl").exists()


@pytest.mark.engine
def test_a_served_adapter_gives_up_what_it_was_trained_on(
    served: Served, trained: Callable[..., Trained], tmp_path: Path
) -> None:
    """From an opening that stood before it in the data; the adapter of other data does not give it."""
    row = json.loads(trained("secrets-train").data.read_text().splitlines()[0])
    given = {}
    for name in ("secrets-train", "hosts-train"):
        added = served.post("/v1/adapters", {"name": f"probed-{name}", "source": str(trained(name).folder)})
        assert added.status_code == 201
        out = tmp_path / f"{name}.jsonl"
        words = ["--server", served.url, "--adapter", f"probed-{name}", "--out", str(out)]
        words += ["--opening", row["prefix"], "--budget-tokens", "8000"]
        result = CliRunner().invoke(app, ["probe", *words])
        served.http.delete(f"/v1/adapters/probed-{name}")
        assert result.exit_code == 0
        found_rows = [json.loads(line) for line in out.read_text().splitlines()]
        given[name] = any(row["target"].strip() in one["prefix"] + one["target"] for one in found_rows)
    assert given == {"secrets-train": True, "hosts-train": False}
