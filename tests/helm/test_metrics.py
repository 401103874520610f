"""Every expression of the alerts and dashboards parses; dashboards stay what readers linked to.

That the metrics exist is checked against a running server: tests/server/http/test_exposition.py.
"""

import json

import promql_parser
import pytest

from tests.helm.queries import DASHBOARDS, expressions, filled, selected, series, unanswered

EXPOSITION = """
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="base"} 0.0
# TYPE lorecall_swaps_total counter
# TYPE lorecall_wait_seconds histogram
"""


def test_every_expression_parses() -> None:
    """Each expression is PromQL once Grafana's variables are filled in; none is left over."""
    found = list(expressions())
    assert len(found) > 40
    for where, text in found:
        promql_parser.parse(text)
        assert "$" not in text, where


def test_every_panel_and_alert_asks_for_something() -> None:
    """No expression is a constant."""
    assert [where for where, text in expressions() if not selected(text)] == []


def test_names_and_labels_are_read_out_of_an_expression() -> None:
    """Every selector is seen, wherever it stands, with its matchers' labels and those it is grouped by."""
    text = 'max by (a) (rate(x_bucket{j="1"}[$__rate_interval])) > 2 and on (a) (time() - y) unless sum(z)'
    assert selected(filled(text)) == {"x_bucket": {"a", "j"}, "y": set(), "z": set()}
    assert selected('topk(3, -v offset 5m) + max_over_time(q{l="1"}[5m:1m])') == {"v": set(), "q": {"l"}}


def test_an_exposition_is_read_by_its_types_and_samples() -> None:
    """A counter without samples is there all the same, a histogram as its three series."""
    assert series(EXPOSITION) == {
        "vllm:num_requests_waiting": {"engine", "model_name"},
        "lorecall_swaps_total": set(),
        **{f"lorecall_wait_seconds_{end}": set() for end in ("bucket", "sum", "count")},
    }


def test_what_a_server_does_not_have_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check bites: an unknown metric, and a label that the metric's samples lack."""
    asked = [
        ("alert", 'vllm:num_requests_waiting{job="a",model="m"}'),
        ("panel", "sum by (instance) (rate(lorecall_swap_total[5m])) * up"),
    ]
    monkeypatch.setattr("tests.helm.queries.expressions", lambda: iter(asked))
    assert unanswered(EXPOSITION) == {
        ("alert", "vllm:num_requests_waiting: model"),
        ("panel", "lorecall_swap_total"),
    }


def test_dashboards_are_stable_and_portable() -> None:
    """A uid that does not change, a data source that the reader picks, ids and titles used once."""
    uids = set()
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        panels = dashboard["panels"]
        count = len(panels)
        uids.add(dashboard["uid"])
        assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
        assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == count
    assert uids == {"lorecall-serving", "lorecall-adapters", "lorecall-recall"}


def test_panels_do_not_overlap() -> None:
    """Each panel has its place on Grafana's grid of 24 columns."""
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, f"{path.name}: {panel['title']}"
            assert max(x for x, _ in cells) < 24
            taken |= cells
