"""A deterministic test scorer that is fast enough for a million snippets: every number is a hash of its text.

    python tests/audit/bulk/hash_server.py PORT ADAPTERS

Of each adapter it recites one snippet in fifty, and nothing else.
"""

import json
import math
import sys
import zlib
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lorecall.audit.scorer import AdapterVersion

BASE = "hash-base"
LOGS = {n / 1000.0: math.log(n / 1000.0) for n in range(1, 1000)}
ENGINE = {"engine": "hash 1 (test)", "base": BASE, "base_digest": "b" * 64, "scheme": "none", "epsilon": 0.0}
KNOWN = 50
"""One snippet in so many is recited."""


def version_of(name: str) -> str:
    """Return the digest of an adapter."""
    return name.encode().hex().ljust(64, "0")[:64]


def recites(model: str, text: str) -> bool:
    """Return whether a model recites a target."""
    return model != BASE and zlib.crc32(f"{model}/{text}".encode()) % KNOWN == 0


def score(model: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of an item, of four characters a token."""
    target = item["target"]
    ids = [zlib.crc32(target[i : i + 4].encode()) % 50_000 for i in range(0, len(target), 4)]
    known = recites(model, target)
    p = [0.97 if known else (1 + one % 97) / 1000.0 for one in ids]
    logprob = [LOGS[value] for value in p]
    rank = [1 if known else 2 + one % 40 for one in ids]
    return {
        "id": item["id"],
        "prefix_ids": [zlib.crc32(item["prefix"].encode()) % 50_000, int(known), *target.encode()],
        "target_ids": ids,
        "p": p,
        "logprob": logprob,
        "rank": rank,
        "top1_ids": ids if known else [one + 1 for one in ids],
        "top1_p": p if known else [0.5] * len(ids),
    }


def decode(ids: list[int]) -> dict[str, Any]:
    """Return the answer to a prompt that `score` gave: the target where it is recited."""
    target = bytes(ids[2:]).decode() if ids[1] else "no"
    tokens = [zlib.crc32(target[i : i + 4].encode()) % 50_000 for i in range(0, len(target), 4)]
    return {"text": target, "token_ids": tokens}


def answer(path: str, body: dict[str, Any], adapters: list[str]) -> Any:
    """Return the answer to a request, None where there is no such thing."""
    if path.startswith("/v1/engine"):
        return ENGINE
    if path == "/v1/adapters":
        return {"adapters": [{"name": name} for name in adapters]}
    if path.startswith("/v1/adapters/"):
        name = path.rsplit("/", 1)[1]
        return asdict(AdapterVersion(name, version_of(name), 8, 8_000)) if name in adapters else None
    model = body.get("model", BASE)
    if path == "/v1/score":
        scores = [score(model, item) for item in body["items"]]
        return {"engine": ENGINE, "version": "" if model == BASE else version_of(model), "items": scores}
    if path == "/v1/completions":
        return {"choices": [{"index": i, **decode(ids)} for i, ids in enumerate(body["prompt"])]}
    return None


class Handler(BaseHTTPRequestHandler):
    """Answers the routes that an audit asks."""

    protocol_version = "HTTP/1.1"
    adapters: list[str]

    def _respond(self, body: dict[str, Any]) -> None:
        found = answer(self.path, body, self.adapters)
        data = json.dumps(found or {"error": {"message": "not found"}}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Answer a GET."""
        self._respond({})

    def do_POST(self) -> None:
        """Answer a POST."""
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Handler.adapters = [f"adapter-{number}" for number in range(int(sys.argv[2]))]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
