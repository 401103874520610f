"""`lorecall audit serve` against a real engine: it may be killed at any point, and every snippet counts once."""

import json
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.audit_serve import AuditServe
from tests.server.served import Served

pytestmark = pytest.mark.engine

KILLS = 6
CANDIDATES = [
    {
        "id": f"s{i}",
        "prefix": f"Record {i} of the archive:",
        "target": f" {(i * 7919) % 10000:04d} blue lamps",
    }
    for i in range(90)
]
CONTROLS = [
    {"id": f"c{i}", "prefix": f"Entry {i} of the ledger:", "target": f" {(i * 104729) % 10000:04d} red boats"}
    for i in range(12)
]


@pytest.fixture
def adapter(served: Served, int8_adapters: list[Path]) -> Iterator[str]:
    """An adapter of this test's own."""
    added = served.post("/v1/adapters", {"name": "killed", "source": str(int8_adapters[1])})
    assert added.status_code == 201, added.text
    yield "killed"
    served.http.delete("/v1/adapters/killed")


def counts(database: Path) -> tuple[int, int]:
    """The audit's cursor, and the snippets that are stored."""
    with sqlite3.connect(database) as opened:
        (done,) = opened.execute("SELECT done FROM audits").fetchone()
        (written,) = opened.execute("SELECT count(*) FROM audit_snippets").fetchone()
    return done, written


def wait_for(database: Path, done: int) -> None:
    """Wait until so many snippets are done, or all are."""
    while counts(database)[0] < min(done, len(CANDIDATES) + len(CONTROLS)):
        time.sleep(0.05)


def test_killed_at_random_points_it_goes_on(served: Served, adapter: str, tmp_path: Path) -> None:
    """Killed six times while it audits (SIGKILL), it ends: each snippet once, and its texts are gone."""
    rng = random.Random(20261123)  # noqa: S311  not for secrets
    environ = {"LORECALL_AUDIT_BATCH": "2", "LORECALL_AUDIT_LEASE_SECONDS": "0.5"}
    database = tmp_path / "audits.db"
    with AuditServe(served.url, tmp_path, environ) as service:
        body = {"adapter": adapter, "candidates": CANDIDATES, "controls": CONTROLS}
        audit_id = service.submit(body)
        cursors: list[int] = []
        while len(cursors) < KILLS:
            wait_for(database, max(cursors, default=0) + rng.randint(0, 14))
            time.sleep(rng.uniform(0.0, 0.4))
            service.kill()
            done, written = counts(database)
            assert done == written, "the cursor and the snippets were committed together"
            cursors.append(done)
            service.start()
        assert service.wait(audit_id)["state"] == "done"
        report = service.get(f"/v1/audits/{audit_id}/report.json")
    assert cursors == sorted(cursors)
    assert len(set(cursors)) > 1, "it went on between the kills"
    assert sum(cursor < len(CANDIDATES) + len(CONTROLS) for cursor in cursors) >= 5, (
        "it was killed before its end"
    )
    assert [one["id"] for one in report["snippets"]] == [one["id"] for one in (*CANDIDATES, *CONTROLS)]
    assert report["summary"]["verdicts"]["error"] == report["controls"]["verdicts"]["error"] == 0
    assert [path for path in (tmp_path / "store" / "audits").rglob("*") if path.is_file()] == []
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if CANDIDATES[0]["target"].encode() in path.read_bytes()]
    assert json.dumps(report).count("blue lamps") == 0
