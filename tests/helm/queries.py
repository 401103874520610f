"""What the alerts and dashboards of the chart ask Prometheus for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

CHART = Path(__file__).parents[2] / "helm" / "lorecall"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
FROM_PROMETHEUS = {"up"}
"""Written by Prometheus itself, for every target."""
FROM_SCRAPES = {"job", "instance", "namespace"}
"""Labels that Prometheus, or its operator, adds to every series of a target."""
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count", ""), "counter": ("",)}


def expressions() -> Iterator[tuple[str, str]]:
    """Yield (where, expression) of every alert, panel and dashboard variable, Grafana's own filled in."""
    for group in yaml.safe_load((CHART / "rules" / "lorecall.yaml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", filled(target["expr"])
        for variable in dashboard["templating"]["list"]:
            label_values = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"])
            if label_values:
                yield f"{path.name}: ${variable['name']}", filled(label_values[1])


def filled(text: str) -> str:
    """Return an expression with Grafana's variables replaced by values."""
    return re.sub(r"\$(job|adapter)\b", ".*", text.replace("$__rate_interval", "5m"))


def selected(text: str) -> dict[str, set[str]]:
    """Return the metrics that an expression selects, each with the labels that are asked of it."""
    found: dict[str, set[str]] = {}
    for name, labels in _walk(promql_parser.parse(text), frozenset()):
        found.setdefault(name, set()).update(labels)
    return found


def _walk(node: Any, grouped: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield each selector's metric with the labels of its matchers, and of the `by` closest around it."""
    if isinstance(node, promql_parser.VectorSelector) and node.name is not None:
        yield node.name, grouped | {matcher.name for matcher in node.matchers.matchers}
    if isinstance(node, promql_parser.AggregateExpr):
        grouped = frozenset(node.modifier.labels if node.modifier else ())
    for part in ("expr", "lhs", "rhs", "param", "vector_selector", "args"):
        inner = getattr(node, part, None)
        for one in inner if isinstance(inner, list) else [inner]:
            if one is not None:
                yield from _walk(one, grouped)


def series(exposition: str) -> dict[str, set[str]]:
    """Return the series that an exposition has or will have, each with its labels as far as it has samples.

    A family with labels has its `# TYPE` line from the start, and samples once something was counted.
    """
    found: dict[str, set[str]] = {}
    for line in exposition.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found |= {name + suffix: set() for suffix in SUFFIXES.get(kind, ("",))}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def unanswered(exposition: str) -> set[tuple[str, str]]:
    """Return (where, what) of everything that is asked for and not in an exposition: metrics, and labels."""
    has = series(exposition)
    missing = set()
    for where, text in expressions():
        for name, labels in selected(text).items():
            if name not in has:
                missing |= {(where, name)} if name not in FROM_PROMETHEUS else set()
            elif has[name]:
                missing |= {(where, f"{name}: {label}") for label in labels - has[name] - FROM_SCRAPES}
    return missing
