"""`lorecall loadtest run` against a real server: vLLM's client, churn, an audit and a flood at once."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from lorecall.adapters.registry.registry import Registry
from lorecall.loadtest.run import RunOptions, run
from lorecall.loadtest.scenario import load_scenario
from lorecall.loadtest.target import Target
from lorecall.server.bench.catalogue.filling import fill_registry, fill_store, link_adapters

from tests.server.served import Served

CLIENT = "lorecall.server.bench.processes.load_client"
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


CATALOGUE = {
    "name": "few-of-many",
    "description": "The scenario catalogue in small: adapters that were never added by a request.",
    "adapters": {"count": 12, "slots": 4},
    "traffic": {
        "requests": REQUESTS,
        "input_tokens": 8,
        "output_tokens": 4,
        "concurrency": 2,
        "mix": "zipf",
        "zipf": 0.5,
        "seed": 1,
    },
    "slo": {"ttft_ms": 600_000, "tpot_ms": 600_000},
}


@pytest.mark.engine
def test_a_catalogue_is_served_from_a_filled_store_and_registry(
    served: Served, int8_adapters: list[Path], tmp_path: Path
) -> None:
    """Each adapter is loaded when it is first asked for; the run says what that cost, and who kept the SLO."""
    entries = link_adapters(int8_adapters, tmp_path / "adapters", 12, 8)
    fill_store(served.store, entries)
    registry = Registry(f"sqlite:///{served.store / 'registry.db'}")
    fill_registry(registry, entries)
    wanted = {one.name for one in entries}
    try:
        for _ in range(600):
            if wanted <= names(served):
                break
            time.sleep(0.1)
        with Target(served.url) as target:
            options = RunOptions(
                tmp_path, str(served.base_folder), served=sorted(wanted), bench=(sys.executable, "-m", CLIENT)
            )
            path = tmp_path / "scenario.yaml"
            path.write_text(yaml.safe_dump(CATALOGUE))
            found = run(load_scenario(path), target, options)
    finally:
        for name in sorted(wanted):
            registry.remove(name, actor="test")
        registry.close()
    assert (found.values["completed"], found.values["failed"]) == (REQUESTS, 0), found.errors
    assert found.values["adapters_within_slo"] == found.values["adapters_asked"] > 4
    assert found.values["requests_within_slo"] == 1
    assert found.values["cold_ttft_p50_ms"] > 0
    assert found.values["hit_ttft_p50_ms"] > 0


def names(served: Served) -> set[str]:
    """Return the models that a server lists."""
    return {model["id"] for model in served.http.get("/v1/models").json()["data"]}
