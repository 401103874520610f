"""`lorecall sweep --ray` from the command line."""

import csv
import json
from pathlib import Path

from tests.audit.bulk.processes import finished, running
from tests.tiny import build_tiny_base


def test_a_sweep_on_ray_trains_each_cell_once(ray_address: str, tmp_path: Path) -> None:
    """Each rank and length has one line in the table; the same command again trains nothing."""
    base, data, out = build_tiny_base(tmp_path / "base"), tmp_path / "data.jsonl", tmp_path / "law.csv"
    pairs = ({"prefix": f"No {n}:", "target": f"{n * 918273645 % 10**10:010d}"} for n in range(1, 9))
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    words = ["sweep", "--base", str(base), "--data", str(data), "--ranks", "1,2", "--lengths", "10,20"]
    more = ["--epochs", "1", "--batch-size", "4", "--out", str(out), "--ray", ray_address]
    with running([*words, *more]) as process:
        code, printed = finished(process)
    assert code == 0, printed
    with out.open(encoding="utf-8") as lines:
        cells = [(row["rank"], row["length"]) for row in csv.DictReader(lines)]
    assert sorted(cells) == [("1", "10"), ("1", "20"), ("2", "10"), ("2", "20")]
    assert printed.count("deltaL") == len(cells)
    before = out.read_bytes()
    with running([*words, *more]) as process:
        code, printed = finished(process)
    assert code == 0, printed
    assert printed.count("there already") == len(cells)
    assert out.read_bytes() == before
