"""Every expression of the alerts and dashboards parses, and asks for series that the server has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

CHART = Path(__file__).parents[2] / "helm" / "lorecall"
EXPOSITION = Path(__file__).parents[1] / "data" / "metrics.txt"
FROM_PROMETHEUS = {"up"}  # written by Prometheus itself, for every target


def expressions() -> Iterator[tuple[str, str]]:
    """Yield (where, expression) of every alert and every dashboard panel, Grafana's variables filled in."""
    for group in yaml.safe_load((CHART / "rules" / "lorecall.yaml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for path in (CHART / "dashboards").glob("*.json"):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*")
                yield f"{path.name}: {panel['title']}", text


def selected(node: Any) -> Iterator[str]:
    """Yield the metric names that an expression selects."""
    yield from re.findall(r"[a-zA-Z_:][\w:]*(?=\{)", str(node))


def exposed() -> set[str]:
    """Return the series names in a real server's exposition."""
    text = EXPOSITION.read_text(encoding="utf-8")
    return {
        line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")
    }


def test_every_expression_parses() -> None:
    """Each expression is PromQL, and no panel or alert is without one."""
    found = list(expressions())
    assert len(found) > 10
    for _, text in found:
        promql_parser.parse(text)


def test_every_metric_is_in_a_real_servers_exposition() -> None:
    """No alert or panel waits for a series that the server does not have."""
    series = exposed() | FROM_PROMETHEUS
    missing = {
        (where, name)
        for where, text in expressions()
        for name in selected(promql_parser.parse(text))
        if name not in series
    }
    assert not missing


def test_dashboards_are_stable_and_portable() -> None:
    """A uid that does not change, a data source that the reader picks, ids and titles used once."""
    for path in (CHART / "dashboards").glob("*.json"):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        panels = dashboard["panels"]
        count = len(panels)
        assert dashboard["uid"].startswith("lorecall-")
        assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
        assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == count
