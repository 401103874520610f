"""`lorecall audit bulk` on training data, beside `audit run` on the same file."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from lorecall.server.cli.audit.commands import app
from typer.testing import CliRunner

from tests.audit.bulk.processes import finished, running
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.audit.tiny_server import serve
from tests.server.cli.audit.test_discover import data  # noqa: F401  a fixture


def test_training_data_is_searched_and_judged_as_for_one_adapter(
    data: Path,  # noqa: F811
    ray_address: str,
    tmp_path: Path,
) -> None:
    """Each adapter's rows are the snippets of `audit run --data`, verdict by verdict; no text is among them."""
    said = [json.loads(line)["text"] for line in data.read_text().splitlines()]
    engine = TinyScorer({"leaky": Memory(tuple(said[:2])), "other": Memory(tuple(said[3:4]))})
    out = tmp_path / "bulk"
    with serve(engine) as url:
        words = [
            "--adapters",
            "*",
            "--server",
            url,
            "--data",
            str(data),
            "--out",
            str(out),
            "--ray",
            ray_address,
        ]
        with running(["audit", "bulk", *words]) as process:
            code, printed = finished(process)
        assert code == 1, printed
        for file in (out / "results").iterdir():
            rows = pq.read_table(file).to_pylist()
            name, alone = rows[0]["adapter"], tmp_path / rows[0]["adapter"]
            told = ["run", "--server", url, "--adapter", name, "--data", str(data), "--out", str(alone)]
            assert CliRunner().invoke(app, told).exit_code == 1
            report = json.loads((alone / "report.json").read_text())
            wanted = {(one["set"], one["id"]): one["verdict"] for one in report["snippets"]}
            assert {(row["set"], row["id"]): row["verdict"] for row in rows} == wanted
            assert len(rows) == len(wanted) > len(said)
    assert {path.name for path in (out / "reports").iterdir()} == {
        f"{engine.adapter(name).version}.json" for name in ("leaky", "other")
    }
    written = printed.encode() + b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert not any(text.rpartition(" ")[2].encode() in written for text in said)
