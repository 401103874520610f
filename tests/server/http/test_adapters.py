"""What the routes of adapters show of what strangers sent."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters import spoiling
from tests.server.counting_site import Site, make_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    spoiling.write_adapter(tmp_path / "one")
    yield from make_site(tmp_path)


async def added(site: Site, name: str) -> int:
    """Add the adapter under a name; return the answer's status."""
    async with site.client("adapters") as client:
        body = {"name": name, "source": str(site.work / "one")}
        return (await client.post("/v1/adapters", json=body)).status_code


async def shown(site: Site, path: str) -> Any:
    """What any key is shown."""
    async with site.client("infer") as client:
        answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_training_record_is_shown_where_one_adapter_is(site: Site) -> None:
    """Its known fields, under each name its own; a list has none of it."""

    async def walk() -> None:
        await site.plane(gated=False)
        for name, seed in (("mallory", 666), ("acme", 7)):
            spoiling.training(seed=seed, notes="x" * 500_000)(site.work / "one")
            assert await added(site, name) == 201
        listed = await shown(site, "/v1/adapters")
        assert [one["name"] for one in listed["adapters"]] == ["acme", "mallory"]
        assert not [one for one in listed["adapters"] if "training" in one]
        assert len(json.dumps(listed)) < 4000
        for name, seed in (("mallory", 666), ("acme", 7)):
            assert (await shown(site, f"/v1/adapters/{name}"))["training"] == {"seed": seed}

    asyncio.run(walk())


@pytest.mark.parametrize(
    "record",
    [
        '{"loss": 1e999}', '{"x":' * 970 + "1" + "}" * 970, '{"scheme": "\\ud800"}',
        '{"scheme": "' + "a" * 900_000 + '"}', '{"seed": ' + "9" * 4000 + "}",
        '{"created_with": {"\\udfff": "1"}}',
    ],
    ids=["infinite", "deep", "half a character", "long", "endless", "half a key"],
)  # fmt: skip
def test_no_training_record_ends_a_list(site: Site, record: str) -> None:
    """The adapter is refused, and the others are still shown to those who may see its name."""

    async def walk() -> None:
        await site.plane(gated=False)
        assert await added(site, "acme") == 201
        spoiling.training_text(record)(site.work / "one")
        assert await added(site, "hostile") == 400
        assert len((await shown(site, "/v1/adapters"))["adapters"]) == 1

    asyncio.run(walk())


def test_the_list_comes_in_pages_of_what_the_caller_sees(site: Site) -> None:
    """A page is as long as asked although other names lie between; the last says that nothing follows."""

    async def walk() -> None:
        await site.plane(gated=False)
        for number in range(5):
            for name in (f"globex-{number}", f"globez-{number}", f"acme-{number}"):
                assert await added(site, name) == 201
        pages, after, more = list[list[str]](), "", True
        async with site.client("stranger") as client:
            while more:
                page = (await client.get("/v1/adapters", params={"limit": 2, "after": after})).json()
                pages.append([one["name"] for one in page["adapters"]])
                after, more = pages[-1][-1], page["has_more"]
            for query in ("limit=0", "limit=501", "after=" + "x" * 200):
                assert (await client.get(f"/v1/adapters?{query}")).status_code in (400, 422)
        assert pages == [["globex-0", "globex-1"], ["globex-2", "globex-3"], ["globex-4"]]

    asyncio.run(walk())
