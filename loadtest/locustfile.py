"""Locust's users of the background load; `background.py` runs it in a process of its own, nothing imports it.

Every request becomes a JSON line of {"name", "start", "seconds", "error", "texts"} in the file that
LOADTEST_BACKGROUND names; `start` is on the machine's monotonic clock, like the times of `bench serve`.
"""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import gevent
from locust import HttpUser, constant, events, task

PLAN: dict[str, Any] = json.loads(os.environ["LOADTEST_BACKGROUND"])
RECORD = Path(PLAN["record"])
HEADERS = {"Authorization": f"Bearer {PLAN['key']}"} if PLAN["key"] else {}
CHURN: dict[str, Any] = PLAN["churn"] or {}
AUDIT: dict[str, Any] = PLAN["audit"] or {}
FLOOD: dict[str, Any] = PLAN["flood"] or {}


@events.request.add_listener  # type: ignore[untyped-decorator]  # locust's hooks have no types
def note(name: str, start_time: float, response_time: float, exception: Any, **_rest: Any) -> None:
    """Record one request; `start_time` is on the wall clock and is converted to the monotonic one."""
    texts = AUDIT.get("texts", 0) if name == "audit" and exception is None else 0
    seconds = response_time / 1000
    line = {
        "name": name,
        "start": _monotonic(start_time),
        "seconds": seconds,
        "error": "" if exception is None else str(exception)[:200],
        "texts": texts,
    }
    with RECORD.open("a", encoding="utf-8") as record:
        record.write(json.dumps(line) + "\n")


def _monotonic(wall: float) -> float:
    """Return a moment of the wall clock on the monotonic one."""
    return time.perf_counter() - (time.time() - wall)


class ChurnUser(HttpUser):
    """Swaps an adapter in the middle of a stream; adds, uses and removes another."""

    fixed_count = 1
    wait_time = constant(CHURN.get("pause_s", 0))

    def on_start(self) -> None:
        """Load the adapter whose versions take turns."""
        self.turn = 0
        self._load(CHURN["swapped"], "add")

    @task
    def churn(self) -> None:
        """Swap, then add and remove."""
        self.swap()
        self.come_and_go()

    def swap(self) -> None:
        """Move the name to another version during a stream; the stream must be complete."""
        self.turn += 1
        stream = gevent.spawn(self._stream, CHURN["swapped"])
        self._load(CHURN["swapped"], "swap", load_inplace=True)
        stream.join()

    def come_and_go(self) -> None:
        """Add an adapter, stream through it, remove it."""
        self.turn += 1
        self._load(CHURN["passing"], "add")
        self._stream(CHURN["passing"])
        self.client.post(
            "/v1/unload_lora_adapter", json={"lora_name": CHURN["passing"]}, headers=HEADERS, name="remove"
        )

    def _load(self, adapter: str, name: str, **more: Any) -> None:
        source = CHURN["sources"][self.turn % len(CHURN["sources"])]
        body = {"lora_name": adapter, "lora_path": source, **more}
        self.client.post("/v1/load_lora_adapter", json=body, headers=HEADERS, name=name)

    def _stream(self, adapter: str) -> None:
        body = {"model": adapter, "prompt": "to be or not", "stream": True, "ignore_eos": True}
        body |= {"max_tokens": CHURN["output_tokens"], "temperature": 0}
        began = time.perf_counter()
        with self.client.post(
            "/v1/completions", json=body, headers=HEADERS, name="stream", stream=True, catch_response=True
        ) as answer:
            lines = [line for line in answer.iter_lines() if line]
            # The time to the stream's end: Locust itself measures to the headers.
            answer.request_meta["response_time"] = 1000 * (time.perf_counter() - began)
            if not answer.ok:
                answer.failure(f"{answer.status_code}: {b' '.join(lines)[:150]!r}")
            elif not lines or lines[-1] != b"data: [DONE]" or any(b'"error"' in line for line in lines):
                answer.failure(f"the stream did not come to its end: {b' '.join(lines[-1:])[:150]!r}")
            else:
                answer.success()


class AuditUser(HttpUser):
    """Has texts scored through one adapter after the other."""

    fixed_count = 1
    wait_time = constant(AUDIT.get("pause_s", 0))

    def on_start(self) -> None:
        """Start the random texts, which are the same in every run."""
        self.turn = 0
        self.draw = random.Random(0)  # noqa: S311  (not for secrets)

    @task
    def score(self) -> None:
        """Score texts that were not scored before."""
        model = AUDIT["models"][self.turn % len(AUDIT["models"])]
        self.turn += 1
        pairs = [self._pair() for _ in range(AUDIT["texts"])]
        if AUDIT["scores"]:
            items = [{"id": str(n), "prefix": a, "target": b} for n, (a, b) in enumerate(pairs)]
            path, body = "/v1/score", {"model": model, "items": items}
        else:
            texts = [prefix + target for prefix, target in pairs]
            path = "/v1/completions"
            body = {"model": model, "prompt": texts, "max_tokens": 1, "echo": True, "logprobs": 1}
        self.client.post(path, json=body, headers=HEADERS, name="audit")

    def _pair(self) -> tuple[str, str]:
        words = [
            f" w{self.draw.randrange(10_000)}" for _ in range(AUDIT["prefix_words"] + AUDIT["target_words"])
        ]
        return "".join(words[: AUDIT["prefix_words"]]), "".join(words[AUDIT["prefix_words"] :])


class FloodUser(HttpUser):
    """Asks for one adapter, one request after the other, in bursts that all of its kind share.

    The lengths differ between them, so that the requests of a burst do not end together.
    """

    fixed_count = FLOOD.get("clients", 1)
    draw = random.Random(0)  # noqa: S311  (not for secrets)

    @task
    def flood(self) -> None:
        """Ask once, or wait for the next burst."""
        into = time.monotonic() % (FLOOD["burst_s"] + FLOOD["pause_s"]) - FLOOD["burst_s"]
        if into >= 0:
            gevent.sleep(FLOOD["pause_s"] - into)
            return
        tokens = self.draw.randint(FLOOD["output_tokens"] // 2, FLOOD["output_tokens"])
        body = {"model": FLOOD["model"], "prompt": "to be or not", "max_tokens": tokens, "ignore_eos": True}
        self.client.post("/v1/completions", json=body, headers=HEADERS, name="flood")
