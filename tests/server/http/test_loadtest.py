"""`lorecall loadtest run` against a real server: vLLM's client, churn, an audit and a flood at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server.served import Served

REQUESTS = 24
SCENARIO = {
    "name": "all-at-once",
    "description": "Everything that a scenario can ask for, in a few seconds.",
    "adapters": {"count": 4},
    "traffic": {
        "requests": REQUESTS,
        "input_tokens": 24,
        "output_tokens": 24,
        "concurrency": 2,
        "base_share": 0.25,
        "seed": 1,
    },
    "churn": {"pause_s": 0, "output_tokens": 4},
    "audit": {"texts": 2, "pause_s": 0.1},
    "flood": {"clients": 2, "output_tokens": 4, "burst_s": 2, "pause_s": 0.5},
}


@pytest.mark.engine
def test_traffic_churn_audit_and_flood_are_all_answered(
    served: Served, int8_adapters: list[Path], tmp_path: Path
) -> None:
    """No request fails while adapters are swapped, added, removed, audited and flooded; nothing stays behind."""
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(SCENARIO))
    before = names(served)
    command = [str(Path(sys.executable).with_name("lorecall")), "loadtest", "run", str(path), "--json"]
    command += ["--tokenizer", str(served.base_folder)]
    adapters = [part for one in int8_adapters for part in ("--adapter", str(one))]
    done = subprocess.run(
        [*command, "--server", served.url, *adapters, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values: dict[str, Any] = json.loads(done.stdout)["values"]
    assert values["completed"] == REQUESTS
    assert {name: value for name, value in values.items() if name.endswith("failed") and value} == {}
    for measured in (
        "tokens_per_s",
        "ttft_p99_ms",
        "swap_per_s",
        "add_per_s",
        "audit_texts_per_s",
        "flood_per_s",
    ):
        assert values[measured] > 0, values
    raw = json.loads((tmp_path / "bench.json").read_text())
    assert raw["output_lens"] == [24] * REQUESTS
    assert names(served) == before


def names(served: Served) -> set[str]:
    """Return the models that a server lists."""
    return {model["id"] for model in served.http.get("/v1/models").json()["data"]}
