"""The malicious corpus against the running server: nothing is accepted, and the engine lives."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.malicious import SPOILERS
from tests.adapters.malicious_archives import ARCHIVES
from tests.server.served import Served
from tests.tiny import build_tiny_adapter

pytestmark = pytest.mark.engine

NAME = "malicious"


FITS_FLOAT32 = "overflows float16"
"""A number that is too large for an engine in float16; this one is in float32."""


@pytest.fixture(scope="module")
def good(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that this server takes, for the spoilers to spoil."""
    path = tmp_path_factory.mktemp("good")
    build_tiny_adapter(path, tiny("int8-w8a8"), rank=4, modules=("q_proj", "down_proj"))
    (path / "README.md").unlink(missing_ok=True)
    return path


def test_no_malicious_directory_is_accepted(served: Served, good: Path, tmp_path: Path) -> None:
    """Every directory of the corpus is refused with a 4xx, and most for the very reason it was made for."""
    accepted, matched = [], 0
    spoilers = {kind: one for kind, one in SPOILERS.items() if kind != FITS_FLOAT32}
    for number, (kind, (reason, spoil)) in enumerate(spoilers.items()):
        target = tmp_path / str(number)
        shutil.copytree(good, target)
        name = f"{NAME}-{number}"
        with contextlib.suppress(KeyError):  # a spoiler of something that this adapter does not have
            spoil(target)
            answer = served.post("/v1/adapters", {"name": name, "source": str(target)})
            if not 400 <= answer.status_code < 500:
                accepted.append((kind, answer.status_code))
                continue
            events = served.http.get(f"/v1/adapters/{name}/events").json()["events"]
            matched += [event["detail"]["reason"] for event in events] == [reason.value]
    assert not accepted
    assert matched >= 0.8 * len(spoilers)
    assert served.alive


def test_what_was_spoiled_is_good(served: Served, good: Path) -> None:
    """Unspoiled, the adapter is accepted: it was refused for what was spoiled, and no refusal sticks to it."""
    assert served.post("/v1/adapters", {"name": "harmless", "source": str(good)}).status_code == 201
    served.http.delete("/v1/adapters/harmless")


def test_no_malicious_archive_is_accepted(served: Served) -> None:
    """Every archive of the corpus is refused with a 4xx when it is uploaded."""
    accepted = []
    for kind, (_, build) in ARCHIVES.items():
        answer = served.http.post(f"/v1/adapters/{NAME}/archive", content=build())
        if not 400 <= answer.status_code < 500:
            accepted.append((kind, answer.status_code))
    assert not accepted
    assert served.http.get(f"/v1/adapters/{NAME}").status_code == 404
    assert served.alive


def test_a_good_archive_is_accepted(served: Served, good: Path, tmp_path: Path) -> None:
    """The upload route works, so its refusals mean something; refusals are counted by reason."""
    archive = Path(shutil.make_archive(str(tmp_path / "good"), "gztar", good))
    answer = served.http.post("/v1/adapters/uploaded/archive", content=archive.read_bytes())
    assert answer.status_code == 201, answer.text
    body = {"model": "uploaded", "prompt": "To be", "max_tokens": 1}
    assert served.post("/v1/completions", body).is_success
    served.http.delete("/v1/adapters/uploaded")
    assert 'lorecall_refusals_total{reason="not_finite"}' in served.http.get("/metrics").text
