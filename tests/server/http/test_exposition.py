"""What the chart's alerts and dashboards ask for, the running server has."""

from pathlib import Path

import pytest

from tests.helm.queries import unanswered
from tests.server.served import Served


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
