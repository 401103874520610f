"""Adapters come from S3 and from a hub into running servers, which serve the very bytes."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE

from tests.hub import Hub
from tests.server.pair import Pair, wait_for
from tests.tiny import build_tiny_adapter

pytestmark = pytest.mark.engine


def added(pair: Pair, name: str, source: str) -> dict[str, Any]:
    """Add an adapter, have it answer, and return what the server says of it."""
    answer = pair.a.post("/v1/adapters", {"name": name, "source": source})
    assert answer.status_code == 201, answer.text
    body = {"model": name, "prompt": "To be", "max_tokens": 2}
    assert pair.a.post("/v1/completions", body).status_code == 200
    shown: dict[str, Any] = answer.json()
    pair.a.http.delete(f"/v1/adapters/{name}")
    return shown


def test_from_s3(pair: Pair, s3: dict[str, Any], int8_adapters: list[Path]) -> None:
    """`s3://bucket/folder` gives the version of the folder's bytes, and a missing folder a 4xx that names it."""
    filesystem = fsspec.filesystem("s3", **s3)
    filesystem.mkdir("fleet")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        filesystem.pipe(f"fleet/support/{name}", (int8_adapters[2] / name).read_bytes())
    shown = added(pair, "from-s3", "s3://fleet/support")
    assert shown["version"] == read_adapter(int8_adapters[2]).version
    assert shown["source"].startswith(f"s3://fleet/support#{CONFIG_FILE}=etag:")
    missing = pair.a.post("/v1/adapters", {"name": "from-s3", "source": "s3://fleet/nowhere"})
    assert 400 <= missing.status_code < 500
    assert "s3://fleet/nowhere" in missing.json()["error"]["message"]


def test_from_a_hub(pair: Pair, hub: Hub, int8_adapters: list[Path]) -> None:
    """`hf://org/name` gives the version that the repository's bytes have."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        hub.files[name] = (int8_adapters[1] / name).read_bytes()
    shown = added(pair, "from-hub", "hf://acme/support")
    assert shown["version"] == read_adapter(int8_adapters[1]).version
    assert shown["source"] == f"hf://acme/support@{hub.commit()}"


def test_a_key_adds_from_its_own_sources_only(pair: Pair, hub: Hub, int8_adapters: list[Path]) -> None:
    """Its list holds on the running server, by our route and by vLLM's; the shared shelf is nobody's source."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        hub.files[name] = (int8_adapters[1] / name).read_bytes()
    body = {"name": "limited", "scopes": ["adapters"], "adapters": ["acme-*"], "sources": ["hf://acme/*"]}
    client = pair.client(pair.a, pair.a.post("/v1/keys", body).json()["secret"])
    for source in (str(int8_adapters[0]), "s3://fleet/support", "hf://acme-x/support"):
        for path, fields in (
            ("adapters", ("name", "source")),
            ("load_lora_adapter", ("lora_name", "lora_path")),
        ):
            answer = client.post(f"/v1/{path}", json=dict(zip(fields, ("acme-own", source), strict=True)))
            assert answer.status_code == 400, answer.text
            assert "this API key may not read" in answer.json()["error"]["message"]
    added = client.post("/v1/adapters", json={"name": "acme-own", "source": "hf://acme/support"})
    assert added.status_code == 201, added.text
    assert client.delete("/v1/adapters/acme-own").is_success
    shelf = {"name": "acme-own", "source": f"s3://shelf/of/uploads/{added.json()['version']}"}
    stolen = pair.a.post("/v1/adapters", shelf)
    assert stolen.status_code == 400
    assert "does not read" in stolen.json()["error"]["message"]


def test_an_upload_to_one_server_is_served_by_the_other(
    pair: Pair, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its bytes go to the shared address, and the other server, which has another store, fetches them there."""
    adapter = build_tiny_adapter(tmp_path / "adapter", tiny("int8-w8a8"), rank=4, seed=77)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            archive.add(adapter / name, name)
    added = pair.a.http.post("/v1/adapters/uploaded/archive", content=packed.getvalue())
    assert added.status_code == 201, added.text
    body = {"model": "uploaded", "prompt": "To be", "max_tokens": 2}
    assert wait_for(lambda: pair.b.post("/v1/completions", body).status_code == 200, 60)
    pair.a.http.delete("/v1/adapters/uploaded")
