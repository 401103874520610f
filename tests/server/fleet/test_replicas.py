"""Three servers behind each router: a kill under load, a new server in its place, and half an hour of churn.

`make soak` runs it. `CHURN_SECONDS` shortens the churn.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.postgres import MissingPostgresError, running_postgres
from tests.server.fleet.balancers import NAMES, running_router
from tests.server.fleet.test_router import answered, further, lost, version
from tests.server.pair import ADMIN, start, wait_for
from tests.server.served import Served
from tests.server.sessions import asking, generated, scored, slowly

pytestmark = [pytest.mark.engine, pytest.mark.soak]

CHURN_S = float(os.environ.get("CHURN_SECONDS", "1800"))
SESSIONS, TRIES, COUNT = 9, 8, 3
NAME = "routed"


@dataclass
class Trio:
    """Three servers on one registry and one shared folder.

    Attributes:
        base: The base's directory.
        work: Where stores and logs lie.
        registry: The URL of their registry.
        servers: The servers.
    """

    base: Path
    work: Path
    registry: str
    servers: list[Served] = field(default_factory=list)
    _started: int = 0

    @property
    def urls(self) -> list[str]:
        """Their addresses, which stay."""
        return [one.url for one in self.servers]

    def start(self, port: int = 0) -> Served:
        """Start a server with an empty store."""
        self._started += 1
        environ = {"LORECALL_SHARED": str(self.work / "shared")}
        folder = self.work / f"server-{self._started}"
        return start(self.base, folder, self.registry, environ, gate=False, port=port)

    def end(self, number: int, how: signal.Signals) -> None:
        """Stop a server, or kill it with its engine."""
        if how is signal.SIGKILL:
            os.killpg(self.servers[number].pid, signal.SIGKILL)
        self.servers[number].close()

    def replace(self, number: int) -> Served:
        """Start a server at the address of one that has ended."""
        self.servers[number] = self.start(urlsplit(self.servers[number].url).port or 0)
        return self.servers[number]


@pytest.fixture(scope="module")
def trio(
    tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, int8_adapters: list[Path]
) -> Iterator[Trio]:
    """The servers, with one adapter."""
    try:
        with running_postgres() as database:
            work = tmp_path_factory.mktemp("trio")
            (work / "shared").mkdir()
            three = Trio(tiny("int8-w8a8"), work, database.new_database())
            try:
                for _ in range(COUNT):  # one after the other: each has a limit to be up, whatever the cores
                    three.servers.append(three.start())
                added = three.servers[0].post("/v1/adapters", {"name": NAME, "source": str(int8_adapters[0])})
                assert added.is_success, added.text
                assert wait_for(lambda: all(version(one, NAME) for one in three.servers))
                yield three
            finally:
                for one in three.servers:
                    one.close()
    except MissingPostgresError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_server_costs_a_retry_at_most_and_a_new_one_serves(
    name: str, trio: Trio, tmp_path: Path
) -> None:
    """Every caller has all its answers in the end; the new server fetches what the registry says, and answers."""
    with (
        running_router(name, trio.urls, tmp_path / "router.log") as url,
        asking(url, ADMIN, NAME, SESSIONS, generated, tries=TRIES) as callers,
    ):
        assert wait_for(lambda: answered(trio.servers[1], NAME) > 1)
        trio.end(1, signal.SIGKILL)
        assert wait_for(further(callers))
        with slowly(callers):
            new = trio.replace(1)
        assert wait_for(lambda: answered(new, NAME) > 0)
    assert lost(callers) == []


def test_churn_loses_no_request(trio: Trio, int8_adapters: list[Path], tmp_path: Path) -> None:
    """Swaps at any server, one stopped or killed and replaced, again and again: all callers have all answers.

    After each round every server answers with the version that the registry says. No session goes back to the
    version before, unless the server died that it was at.
    """
    end, turn = time.monotonic() + CHURN_S, 0
    with (
        running_router("haproxy", trio.urls, tmp_path / "router.log") as url,
        asking(url, ADMIN, NAME, SESSIONS, scored, tries=TRIES) as callers,
    ):
        while time.monotonic() < end:
            turn += 1
            had = [len(one.versions) for one in callers]
            at, source = trio.servers[turn % COUNT], int8_adapters[turn % 3]
            swapped = at.post("/v1/adapters", {"name": NAME, "source": str(source)})
            assert swapped.is_success, swapped.text
            if turn % 4 == 0:
                away = turn // 4 % COUNT
                trio.end(away, signal.SIGKILL if turn % 8 == 0 else signal.SIGTERM)
                with slowly(callers):
                    trio.replace(away)
            wanted = swapped.json()["version"]
            assert wait_for(lambda: {version(one, NAME) for one in trio.servers} == {wanted})  # noqa: B023  waited for here
            assert wait_for(lambda: all(one.versions[-1] == wanted for one in callers))  # noqa: B023  likewise
            if turn % 4:
                seen = [one.versions[before:] for one, before in zip(callers, had, strict=True)]
                assert {answer for one in seen for answer in one[one.index(wanted) :]} == {wanted}
    assert lost(callers) == []
    assert turn
