"""Adapters that outnumber the slots: a flood through one, and a reload, hold up the others within bounds."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.engines import Engines
from tests.server.pair import wait_for
from tests.server.served import Served

pytestmark = pytest.mark.engine

BATCH = 4
SIZES = ("--max-model-len", "2048", "--max-num-seqs", str(BATCH), "--max-loras", "1", "--max-lora-rank", "16")
FLAGS = (*SIZES, "--enforce-eager")
CLIENTS = 6
FLOOD = 100
"""Requests of the flood, if nothing ends it."""


@pytest.fixture(scope="module")
def one_slot(
    tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, engines: Engines
) -> Iterator[Served]:
    """A server with one slot and batches of four."""
    server = Served(tiny("int8-w8a8"), tmp_path_factory.mktemp("one-slot"), FLAGS, engines=engines)
    yield server
    server.close()


def add(server: Served, name: str, source: Path) -> None:
    """Add an adapter, or move its name to another version."""
    assert server.post("/v1/adapters", {"name": name, "source": str(source)}).status_code == 201


def ask(server: Served, model: str, tokens: int) -> None:
    """Have one answer of so many tokens."""
    body = {"model": model, "prompt": "To be", "max_tokens": tokens, "ignore_eos": True}
    answer = server.post("/v1/completions", body)
    assert answer.json()["usage"]["completion_tokens"] == tokens


def test_a_flood_lets_a_cold_adapter_through(one_slot: Served, int8_adapters: list[Path]) -> None:
    """Of the hot adapter's requests that were sent after the cold one, a batch at most is answered before it."""
    add(one_slot, "hot", int8_adapters[0])
    add(one_slot, "cold", int8_adapters[1])
    ask(one_slot, "cold", 1)
    order: list[tuple[str, int]] = []
    numbers, answered = itertools.count(1), threading.Event()

    def flood() -> None:
        while not answered.is_set() and (number := next(numbers)) <= FLOOD:
            order.append(("sent", number))
            # Lengths differ: a batch that ended all at once would free the slot by chance.
            ask(one_slot, "hot", 12 + 7 * (number % 5))
            order.append(("done", number))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(flood) for _ in range(CLIENTS)]
        assert wait_for(lambda: len(order) > 4 * CLIENTS, 120)
        order.append(("sent", 0))
        ask(one_slot, "cold", 4)
        order.append(("done", 0))
        answered.set()
    for client in clients:
        client.result()
    meanwhile = order[order.index(("sent", 0)) : order.index(("done", 0))]
    overtook = [number for what, number in meanwhile if what == "done" and ("sent", number) in meanwhile]
    # Of the clients each may have had one on its way, which came to the engine's queue first.
    assert len(overtook) <= BATCH + CLIENTS


@pytest.mark.soak
def test_a_reload_holds_up_nobody_else(one_slot: Served, int8_adapters: list[Path]) -> None:
    """With one slot a new version waits for the old one's stream; the base does not, and the stream is whole."""
    add(one_slot, "swapped", int8_adapters[0])
    body = {"model": "swapped", "prompt": "To be", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with ThreadPoolExecutor(1) as pool, one_slot.http.stream("POST", "/v1/completions", json=body) as old:
        lines = old.iter_lines()
        next(lines)
        add(one_slot, "swapped", int8_adapters[1])
        new = pool.submit(ask, one_slot, "swapped", 4)
        ask(one_slot, "base", 4)
        add(one_slot, "another", int8_adapters[2])
        assert one_slot.draining == 1, "the base and the control plane waited for the old version's stream"
        events = [line for line in lines if line.startswith("data: {")]
        new.result(60)
    assert '"finish_reason":"length"' in events[-1]


@pytest.mark.soak
def test_a_reload_with_a_free_slot_holds_up_nothing(served: Served, int8_adapters: list[Path]) -> None:
    """With a second slot the new version answers while the old one's stream goes on."""
    add(served, "reloaded", int8_adapters[0])
    body = {"model": "reloaded", "prompt": "To be", "max_tokens": 450, "ignore_eos": True, "stream": True}
    with served.http.stream("POST", "/v1/completions", json=body) as old:
        lines = old.iter_lines()
        next(lines)
        add(served, "reloaded", int8_adapters[1])
        ask(served, "reloaded", 4)
        assert served.draining == 1, "the new version waited for the old one's stream"
        assert '"finish_reason":"length"' in [line for line in lines if line.startswith("data: {")][-1]
    assert wait_for(lambda: served.draining == 0, 30)
    served.http.delete("/v1/adapters/reloaded")
