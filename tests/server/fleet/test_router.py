"""Servers on one registry behind a real router: a swap, a stop, a new server and a lost registry fail nobody."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.fleet.balancers import CHOSEN, NAMES, running_router
from tests.server.pair import ADMIN, Pair, wait_for
from tests.server.served import Served
from tests.server.sessions import Session, asking, generated, scored, slowly

pytestmark = pytest.mark.engine

SESSIONS = 12  # so many that each server has one, whatever its address


@pytest.fixture(
    params=[pytest.param(name, marks=() if name == CHOSEN else pytest.mark.soak) for name in NAMES]
)
def router(request: pytest.FixtureRequest, pair: Pair, tmp_path: Path) -> Iterator[str]:
    """Each router in front of both servers; gives its URL."""
    with running_router(request.param, [pair.a.url, pair.b.url], tmp_path / "router.log") as url:
        yield url


@pytest.fixture
def named(pair: Pair, int8_adapters: list[Path]) -> Iterator[str]:
    """An adapter that both servers have."""
    assert pair.a.post("/v1/adapters", {"name": "routed", "source": str(int8_adapters[0])}).is_success
    assert wait_for(
        lambda: version(pair.b, "routed") == version(pair.a, "routed")
    )  # not one that was removed
    yield "routed"
    pair.a.http.delete("/v1/adapters/routed")


def version(server: Served, name: str) -> str:
    """Return the version that answers under a name, "" for none."""
    try:
        return scored(server.http, name)
    except ValueError:
        return ""


def answered(server: Served, name: str) -> float:
    """Return how many requests for a name a server answered with success."""
    start = f'lorecall_requests_total{{adapter="{name}",status="2xx"}}'
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def lost(callers: list[Session]) -> list[str]:
    """Return what was not answered."""
    return [failure for one in callers for failure in one.failures]


def further(callers: list[Session], answers: int = 4) -> Callable[[], bool]:
    """Return what says whether each caller has had so many answers from now on."""
    had = [len(one.versions) for one in callers]
    return lambda: all(
        len(one.versions) >= before + answers for one, before in zip(callers, had, strict=True)
    )


def test_a_swap_fails_no_request_and_no_session_goes_back(
    router: str, named: str, pair: Pair, int8_adapters: list[Path]
) -> None:
    """Each session sees the old version and then the new one, whichever server takes the swap."""
    old = version(pair.a, named)
    before = answered(pair.a, named), answered(pair.b, named)
    with asking(router, ADMIN, named, SESSIONS, scored) as callers:
        swapped = pair.a.post("/v1/adapters", {"name": named, "source": str(int8_adapters[1])}).json()
        new = swapped["version"]
        assert wait_for(lambda: all(one.versions[-1] == new for one in callers))
        assert version(pair.b, named) == new
    assert lost(callers) == []
    assert new != old
    assert {tuple(one.changes) for one in callers} == {(old, new)}
    assert answered(pair.a, named) > before[0] + 2
    assert answered(pair.b, named) > before[1] + 2
    assert [one.tries for one in callers] == [len(one.versions) for one in callers]


@pytest.mark.soak
def test_a_stopped_server_loses_nothing_and_a_new_one_takes_its_place(
    pair: Pair, named: str, int8_adapters: list[Path], tmp_path: Path
) -> None:
    """SIGTERM under load: nobody has to repeat a request.

    The next server starts with an empty store, and serves what the registry says, pins included, more than fit at
    once.
    """
    for number in range(6):
        source = str(int8_adapters[number % 3])
        body = {"name": f"kept-{number}", "source": source, "pin": number == 5}
        assert pair.a.post("/v1/adapters", body).status_code == 201
    with (
        running_router(CHOSEN, [pair.a.url, pair.b.url], tmp_path / "router.log") as url,
        asking(url, ADMIN, named, SESSIONS, generated) as callers,
    ):
        assert wait_for(lambda: answered(pair.b, named) > 1)
        pair.b.close()
        assert wait_for(further(callers))
        with slowly(callers):
            pair.start_b()
        assert wait_for(lambda: answered(pair.b, named) > 0)
    assert lost(callers) == []
    for number in range(6):
        name = f"kept-{number}"
        shown = pair.b.http.get(f"/v1/adapters/{name}").json()
        assert version(pair.b, name) == shown["live_version"] == version(pair.a, name)
    assert pair.b.http.get("/v1/adapters/kept-5").json()["level"] in ("slots", "memory")
    for number in range(6):
        pair.a.http.delete(f"/v1/adapters/kept-{number}")


def test_a_server_without_its_registry_serves_what_it_holds(
    pair: Pair, named: str, int8_adapters: list[Path]
) -> None:
    """It stays in the router's rotation, refuses every change with the reason, and follows again when it can."""
    held = version(pair.b, named)
    changes = {
        "POST /v1/adapters": {"name": "late", "source": str(int8_adapters[0])},
        f"POST /v1/adapters/{named}/rollback": None,
        f"POST /v1/adapters/{named}/pin": {"pinned": True},
        f"DELETE /v1/adapters/{named}": None,
        "POST /v1/keys": {"name": "late", "scopes": ["infer"]},
    }
    pair.relay.cut()
    try:
        for change, body in changes.items():
            method, path = change.split()
            answer = pair.b.http.request(method, path, json=body)
            assert answer.status_code == 503, (change, answer.text)
            assert answer.json()["error"]["code"] == "registry_unavailable", change
        assert wait_for(lambda: "lorecall_registry_up 0.0" in pair.b.http.get("/metrics").text)
        assert version(pair.b, named) == held
        assert pair.b.http.get("/health").is_success
        assert pair.a.post("/v1/adapters", {"name": named, "source": str(int8_adapters[2])}).is_success
        assert version(pair.b, named) == held
    finally:
        pair.relay.mend()
    assert wait_for(lambda: version(pair.b, named) == version(pair.a, named) != held)
