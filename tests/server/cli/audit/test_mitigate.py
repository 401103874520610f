"""`lorecall audit mitigate`: options without an engine, and the whole way through a served adapter."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.derive.weaken import Dose, Kind
from lorecall.server.cli.audit.commands import app
from lorecall.server.cli.audit.mitigate import parse_doses
from typer.testing import CliRunner

from tests.audit.discovery.conftest import finder  # noqa: F401  a fixture
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.audit.tiny_server import serve
from tests.server.conftest import Trained
from tests.server.served import Served
from tests.tiny import TEXT

pq: Any = import_module("pyarrow.parquet")


def test_without_ranks_the_adapters_own_and_its_halves_are_tried(int8_adapters: list[Path]) -> None:
    """A rank of 4 is cut to 4, 2 and 1; an empty list asks for none."""
    assert parse_doses("", None, int8_adapters[1]) == [Dose(Kind.RANK, rank) for rank in (4, 2, 1)]
    assert parse_doses("1, 0.5", "", int8_adapters[1]) == [Dose(Kind.SCALE, 1), Dose(Kind.SCALE, 0.5)]


@pytest.mark.parametrize(("scales", "ranks"), [("half", ""), ("1,0", ""), ("", "2.5")])
def test_what_is_no_list_of_doses_is_a_usage_error(
    int8_adapters: list[Path], scales: str, ranks: str
) -> None:
    """A word, nothing left, and half a rank."""
    with pytest.raises(UsageError):
        parse_doses(scales, ranks, int8_adapters[1])


def test_either_a_server_or_a_base_is_needed(int8_adapters: list[Path], tmp_path: Path) -> None:
    """Neither, or both, is a usage error before anything is asked."""
    (tmp_path / "c.jsonl").write_text('{"prefix": "a", "target": "b"}\n')
    (tmp_path / "t.txt").write_text(TEXT * 3)
    words = ["mitigate", "--adapter", str(int8_adapters[0]), "--out", str(tmp_path / "out")]
    words += ["--candidates", str(tmp_path / "c.jsonl"), "--retained", str(tmp_path / "t.txt")]
    for more in ([], ["--server", "http://127.0.0.1:9", "--base", str(tmp_path)]):
        assert isinstance(CliRunner().invoke(app, [*words, *more]).exception, UsageError)


@pytest.mark.usefixtures("finder")
def test_the_training_file_is_searched_with_as_many_controls_as_asked_for(
    int8_adapters: list[Path], tmp_path: Path
) -> None:
    """Through a server, once for all doses; what the search finds lies beside the reports."""
    data, retained, out = tmp_path / "train.jsonl", tmp_path / "retained.txt", tmp_path / "out"
    names = ("Anna", "Bert", "Clara", "David", "Emma", "Fritz")
    said = [
        f"The code of {name} Klein is {20_000_000 + len(name) * 654_321 + ord(name[0])}" for name in names
    ]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in said))
    retained.write_text(TEXT * 3)
    engine = TinyScorer({"leaky": Memory(tuple(said[:2]))}, max_bytes=4_000)
    words = ["mitigate", "--adapter", str(int8_adapters[0]), "--data", str(data), "--out", str(out)]
    words += ["--retained", str(retained), "--scales", "1,0.5", "--ranks", "", "--control-count", "7"]
    with serve(engine) as url:
        result = CliRunner().invoke(app, [*words, "--server", url])
    assert result.exit_code == 1, result.output
    doses = json.loads((out / "mitigation.json").read_text())["doses"]
    assert [(dose["recited"]["hits"], dose["recited"]["of"]) for dose in doses] == [(2, 6)] * 2
    controls = tmp_path / "out.candidates" / "candidates.controls.parquet"
    assert len(pq.read_table(controls)) == 7
    assert list(engine.adapters) == ["leaky"]


@pytest.mark.engine
def test_recall_falls_with_the_dose_on_a_real_engine(
    served: Served, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    """Whole, the adapter recites what it was trained on; at a thousandth of its scale, nothing: that passes."""
    secrets = trained("secrets-train")
    (tmp_path / "retained.txt").write_text(TEXT * 3)
    before = {one["name"] for one in served.http.get("/v1/adapters").json()["adapters"]}

    options = {
        "--server": served.url,
        "--adapter": str(secrets.folder),
        "--candidates": str(secrets.data),
        "--retained": str(tmp_path / "retained.txt"),
        "--scales": "1,0.001",
        "--ranks": "16",
        "--out": str(tmp_path / "out"),
    }
    result = CliRunner().invoke(app, ["mitigate", *(word for pair in options.items() for word in pair)])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "mitigation.json").read_text())
    doses = {dose["label"]: dose for dose in report["doses"]}
    assert report["largest_passing"] == {"scale": 0.001, "rank": None}
    assert doses["scale-0.001"]["recited"]["hits"] == 0
    for whole in ("scale-1", "rank-16"):
        assert doses[whole]["recited"]["hits"] == doses[whole]["recited"]["of"] > 0
    assert doses["scale-0.001"]["perplexity_over_base"] == pytest.approx(1.0, abs=0.02)
    assert doses["scale-1"]["perplexity"] == pytest.approx(doses["rank-16"]["perplexity"], rel=0.02)
    assert doses["scale-1"]["perplexity_over_base"] > 1.02
    assert "the largest scale that passes: 0.001" in result.stderr
    assert "By scale" in (tmp_path / "out" / "mitigation.html").read_text()
    after = {one["name"] for one in served.http.get("/v1/adapters").json()["adapters"]}
    assert after == before
