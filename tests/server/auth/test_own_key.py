"""What a caller is told about the own key, on a server whose engine only counts."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.counting_site import Site, make_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from make_site(tmp_path)


def told(site: Site, caller: str) -> dict[str, Any]:
    """What a caller's key is told about itself."""

    async def ask() -> dict[str, Any]:
        async with site.client(caller) as client:
            answer = await client.get("/v1/keys/self")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    return asyncio.run(ask())


def test_a_key_is_told_what_it_is(site: Site) -> None:
    """Its name, scopes, patterns and limits; nothing from which its secret can be had."""
    key = told(site, "stranger")["key"]
    assert (key["name"], key["scopes"], key["adapters"]) == ("stranger", ["adapters", "audit"], ["globex-*"])
    assert set(key) == {"id", "name", "scopes", "adapters", "limits", "expires_at", "sources"}


def test_the_routes_are_those_that_do_not_refuse_the_key(site: Site) -> None:
    """Asked each of them, the server never answers that the key may not; asked any other, it does."""

    async def statuses(caller: str) -> dict[str, int]:
        await site.plane(gated=False)
        every = told_by["admin"]["routes"]
        async with site.client(caller) as client:
            return {
                one: (
                    await client.request(one.split()[0], one.split()[1].replace("{name}", "globex-none"))
                ).status_code
                for one in every
                if not one.endswith("archive")
            }

    told_by = {caller: told(site, caller) for caller in ("admin", "adapters", "audit", "infer")}
    for caller in ("adapters", "audit", "infer"):
        refused = {one for one, status in asyncio.run(statuses(caller)).items() if status == 403}
        assert refused
        allowed = {one for one in told_by[caller]["routes"] if not one.endswith("archive")}
        assert allowed == {one for one in told_by["admin"]["routes"] if not one.endswith("archive")} - refused
    assert "POST /v1/adapters/{name}/override" in told_by["admin"]["routes"]
    assert told_by["infer"]["routes"] == ["GET /v1/adapters", "GET /v1/adapters/{name}", "GET /v1/keys/self"]
