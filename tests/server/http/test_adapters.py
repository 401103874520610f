"""What the routes of adapters show of what strangers sent."""

import asyncio
import json
import shutil
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


def test_the_list_is_searched_on_the_server(site: Site) -> None:
    """By a part of the name in any case, page by page; a sign that databases take for a pattern is a letter."""

    async def walk() -> None:
        await site.plane(gated=False)
        for name in ("globex-Legal", "globex-tax", "globex-legal_2", "acme-legal"):
            assert await added(site, name) == 201
        async with site.client("stranger") as client:

            async def found(**query: Any) -> tuple[list[str], bool]:
                page = (await client.get("/v1/adapters", params=query)).json()
                return [one["name"] for one in page["adapters"]], page["has_more"]

            assert await found(contains="LEGAL") == (["globex-Legal", "globex-legal_2"], False)
            assert await found(contains="legal", limit=1) == (["globex-Legal"], True)
            assert await found(contains="legal", after="globex-Legal") == (["globex-legal_2"], False)
            assert await found(contains="l_2") == (["globex-legal_2"], False)
            assert await found(contains="%") == ([], False)
            assert await found(contains="acme") == ([], False)

    asyncio.run(walk())


def test_events_keep_the_reason_of_what_was_done(site: Site) -> None:
    """Of an add, an upload, a pin and a rollback; a caller sees those of the names that it sees, an admin all."""
    packed = Path(shutil.make_archive(str(site.work / "packed"), "zip", site.work / "one")).read_bytes()
    header = {"Lorecall-Reason": "a%20%E2%82%AC"}

    async def walk() -> None:
        await site.plane(gated=False)
        path = "/v1/adapters/globex-tax"
        async with site.client("admin") as client:
            body = {"name": "globex-tax", "source": str(site.work / "one"), "reason": "asked by tax"}
            steps = [await client.post("/v1/adapters", json=body)]
            steps.append(await client.post(f"{path}/pin", json={"reason": "their busy week"}))
            spoiling.training(seed=7)(site.work / "one")
            spoiling.write_adapter(site.work / "two", rank=3)
            body = {"name": "globex-tax", "source": str(site.work / "two"), "reason": "trained anew"}
            steps.append(await client.post("/v1/adapters", json=body))
            steps.append(await client.post(f"{path}/rollback", json={"reason": "worse in June"}))
            steps.append(await client.post(f"{path}/rollback"))
            steps.append(await client.post("/v1/adapters/acme/archive", content=packed, headers=header))
            assert [one.status_code for one in steps] == [201, 200, 201, 200, 200, 201]
            every = (await client.get("/v1/events")).json()
            newest = (await client.get("/v1/events?limit=2")).json()
        async with site.client("stranger") as client:
            own = (await client.get("/v1/events")).json()
            pages = (await client.get(f"/v1/events?limit=3&before={own['events'][-1]['id']}")).json()
        details = [(one["action"], one.get("detail", {}).get("reason")) for one in every["events"]]
        assert [one for one in details if one[1]] == [
            ("stage", "asked by tax"),
            ("pin", "their busy week"),
            ("stage", "trained anew"),
            ("rollback", "worse in June"),
            ("stage", "a €"),
        ]
        assert newest == {"events": every["events"][-2:], "has_more": True}
        assert any(one["action"] == "add-key" for one in every["events"])
        assert {one["name"] for one in own["events"]} == {"globex-tax"}
        assert own["events"] == [one for one in every["events"] if one.get("name") == "globex-tax"]
        assert pages == {"events": own["events"][-4:-1], "has_more": True}

    asyncio.run(walk())
