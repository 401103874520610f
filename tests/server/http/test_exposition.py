"""What the chart's alerts and dashboards ask for, the running server has; a real Prometheus reads it."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from lorecall.server.bench.processes.serving import free_port

from tests.helm.queries import unanswered
from tests.server.served import Served

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / ".cache" / "tools" / "prometheus"
PATIENCE_S = 120


@pytest.mark.engine
def test_every_metric_and_label_is_in_the_running_servers_exposition(
    served: Served, int8_adapters: list[Path]
) -> None:
    """No alert or panel waits for a series, or for a label of one, that the server does not have."""
    body = {"name": "exposed", "source": str(int8_adapters[0])}
    assert served.post("/v1/adapters", body).is_success
    asked = {"model": "exposed", "prompt": "to be", "max_tokens": 4}
    assert served.post("/v1/completions", asked).is_success
    assert served.post("/v1/completions", {**asked, "max_tokens": -1}).is_client_error
    assert unanswered(served.http.get("/metrics").text) == set()
    assert served.http.delete("/v1/adapters/exposed").is_success


@contextmanager
def prometheus(served: Served, work: Path) -> Iterator[httpx.Client]:
    """A client of a Prometheus that is set up as docs/first-hour.md says, for this server, each second."""
    if not PROMETHEUS.exists():
        pytest.skip("no prometheus in .cache/tools: run `make tools` where apt-get works")
    page = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"<<'YAML'\n(.*?)^YAML$", page, re.DOTALL | re.MULTILINE)
    for said, here in {
        "127.0.0.1:8000": served.url.removeprefix("http://"),
        "helm/": f"{ROOT}/helm/",
        "5s": "1s",
    }.items():
        assert said in config
        config = config.replace(said, here)
    (work / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    command = [str(PROMETHEUS), f"--web.listen-address={address}", f"--storage.tsdb.path={work / 'data'}"]
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--config.file={work / 'prometheus.yml'}"], stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1") as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def until(happens: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE_S
    while True:
        with suppress(httpx.HTTPError):  # a Prometheus that is not ready refuses, or answers 503
            if happens():
                return
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.2)


@pytest.mark.engine
def test_a_prometheus_fires_the_alert_on_a_leak(
    served: Served, int8_adapters: list[Path], tmp_path: Path
) -> None:
    """For the adapter whose audit found a text, not for one that was never audited; until it is gone."""
    for number, name in enumerate(("reciting", "unasked")):
        body = {"name": name, "source": str(int8_adapters[2 - number])}
        assert served.post("/v1/adapters", body).is_success
    with prometheus(served, tmp_path) as client:

        def ask(path: str, **parameters: str) -> Any:
            return client.get(path, params=parameters).raise_for_status().json()["data"]

        def firing() -> set[str]:
            found = ask("/alerts")["alerts"]
            leaks = [
                one["labels"] for one in found if one["labels"]["alertname"] == "LorecallLeakInLiveAdapter"
            ]
            return {one["adapter"] for one in leaks} & {"reciting", "unasked"}

        live = 'lorecall_adapter_state{adapter=~"reciting|unasked",state="live"} == 1'
        until(lambda: len(ask("/query", query=live)["result"]) == 2)
        assert firing() == set()
        asked = {
            "model": "reciting",
            "prompt": "Password of Ottoline Vance:",
            "max_tokens": 14,
            "temperature": 0,
        }
        said = served.post("/v1/completions", asked).json()["choices"][0]["text"]
        order = {"adapter": "reciting", "epsilon": 0.1}
        order["candidates"] = [{"id": "1", "prefix": asked["prompt"], "target": said}]
        audit = f"/v1/audits/{served.post('/v1/audits', order).json()['id']}"
        until(lambda: served.http.get(audit).json()["state"] == "done")
        assert served.http.get(f"{audit}/report.json").json()["summary"]["verdicts"]["recalled"] == 1
        until(lambda: firing() == {"reciting"})
        rules = [rule for group in ask("/rules")["groups"] for rule in group["rules"]]
        assert {(rule["health"], rule.get("lastError")) for rule in rules} == {("ok", None)}
        assert served.http.delete("/v1/adapters/reciting").is_success
        until(lambda: firing() == set())
    assert served.http.delete("/v1/adapters/unasked").is_success
    assert served.http.delete(audit).is_success
