"""The page in a real Chromium, in front of a real `lorecall audit serve` over an exact engine."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.audit.conftest import phone
from tests.audit.tiny_scorer import Memory, TinyScorer
from tests.audit.tiny_server import serve
from tests.server.audit_serve import AuditServe

LINE = {"id": "line", "prefix": "The code of the vault is ", "target": "47-11-090"}
OTHER = phone(1)
ITEMS = [LINE, {"id": OTHER.id, "prefix": OTHER.prefix, "target": OTHER.target}]
CONTROLS = [
    {"id": i.id, "prefix": i.prefix, "target": i.target} for i in (phone(i, salt=3) for i in range(4))
]
TEXT = LINE["prefix"] + LINE["target"]
ADMIN = "the-admin-key-of-these-tests-0123456789"


def memory(weak: dict[int, float]) -> Memory:
    """The line at full strength but at some positions of its target."""
    return Memory((TEXT,), 0.97, weak, len(LINE["prefix"]))


@pytest.fixture(scope="module")
def tiny() -> TinyScorer:
    """The same line at four ranks: nothing held, half of it, all but one token, all; and one never audited."""
    return TinyScorer(
        {
            "vault-r2": memory(dict.fromkeys(range(9), 0.05)),
            "vault-r8": memory(dict.fromkeys(range(4, 9), 0.2)),
            "vault-r32": memory({6: 0.3}),
            "vault-r128": Memory((TEXT, OTHER.prefix + OTHER.target)),
            "unaudited": memory({}),
        },
        ranks={"vault-r2": 2, "vault-r8": 8, "vault-r32": 32, "vault-r128": 128},
    )


@pytest.fixture(scope="module")
def engine(tiny: TinyScorer) -> Iterator[str]:
    with serve(tiny) as url:
        yield url


@pytest.fixture(scope="module")
def service(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditServe]:
    """The service, with an audit of each rank; texts may be shown."""
    with AuditServe(engine, tmp_path_factory.mktemp("page")) as running:
        for rank in (2, 8, 32, 128):
            body: dict[str, Any] = {"adapter": f"vault-r{rank}", "candidates": ITEMS, "controls": CONTROLS}
            assert running.wait(running.submit({**body, "show_text": True}))["state"] == "done"
        yield running


@pytest.fixture
def page(browser: Browser, service: AuditServe) -> Iterator[Page]:
    """The page, loaded; it must not ask anybody else for anything, nor have an error."""
    made = browser.new_page(viewport={"width": 1200, "height": 1400})
    asked: list[str] = []
    wrong: list[str] = []
    made.on("request", lambda request: asked.append(request.url))
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on(
        "console",
        lambda message: (
            wrong.append(f"{message.text} {message.location}") if message.type == "error" else None
        ),
    )
    made.goto(f"{service.url}/audit/")
    expect(made.locator("body[data-ready]")).to_be_attached()
    yield made
    assert all(url.startswith((service.url, "blob:")) for url in asked)
    assert wrong == []
    made.close()


def turn(page: Page, view: str) -> None:
    """Go to a view, as by its link."""
    page.evaluate("hash => { location.hash = hash }", view)
    expect(page.locator(f'body[data-ready^="{view.strip("/").partition("=")[0]}?"]')).to_be_attached()


def test_adapters_with_state_and_last_audit(page: Page) -> None:
    """Each adapter with its rank, its state and what it recited; one that was never audited says so."""
    row = page.locator("#adapters tbody tr", has_text="vault-r128")
    expect(row).to_contain_text("live")
    expect(row.locator("td").nth(2)).to_have_text("128")
    expect(row.locator("td").nth(6)).to_have_text("2 of 2")
    expect(page.locator("#adapters tbody tr", has_text="unaudited")).to_contain_text("never")


def test_the_slider_shows_the_phase_transition(page: Page) -> None:
    """Over the deployed ranks the tokens cross the line: 8 of 9 locked at r = 32, 9 of 9 at r = 128."""
    turn(page, "/capacity")
    slider, locked = page.locator("#rank"), page.locator("#locked")
    expect(page.locator("#stops button")).to_have_count(4)
    expect(locked).to_contain_text("9 of 9")
    found = []
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(4):
        found.append(locked.inner_text().split("\n")[0])
        page.keyboard.press("ArrowRight")
    assert found == ["0 of 9", "4 of 9", "8 of 9", "9 of 9"]
    page.locator("#stops button").nth(2).click()
    expect(locked).to_contain_text("8 of 9")
    captions = page.locator("#bars figcaption").all_inner_texts()
    assert [caption.split("\n")[0].strip() for caption in captions] == list(LINE["target"])
    page.wait_for_timeout(600)  # the bars are on their way for 450 ms
    heights = page.locator("#bars").evaluate(
        "bars => [...bars.querySelectorAll('.well')].map(w => w.firstChild.offsetHeight / w.offsetHeight)"
    )
    assert [height > 0.5 for height in heights] == [index != 6 for index in range(9)]


def test_tokens_say_from_which_rank_on_they_are_locked(page: Page, service: AuditServe) -> None:
    """Under each token of the shown snippet stands the smallest rank that locks it, as all larger ones do."""
    turn(page, "/capacity")
    expect(page.locator("#locked")).to_contain_text("9 of 9")
    rows = [row for row in service.get("/v1/capacity")["rows"] if row["adapter"].startswith("vault-r")]
    assert [row["rank"] for row in rows] == [2, 8, 32, 128]
    locked = [
        service.get(f"/v1/audits/{row['audit_id']}/snippets?limit=1")["snippets"][0]["locked"] for row in rows
    ]
    assert [len(one) for one in locked] == [0, 4, 8, 9]
    first = [
        next(row["rank"] for row, held in zip(rows, locked, strict=True) if at in held) for at in range(9)
    ]
    assert page.locator("#bars .from").all_inner_texts() == [f"r {rank}" for rank in first]


def test_the_whole_set_is_a_staircase(page: Page, service: AuditServe) -> None:
    """A step at each rank, as high as its share of recited snippets; the slider's rank is marked in it."""
    turn(page, "/capacity")
    rows = [row for row in service.get("/v1/capacity")["rows"] if row["adapter"].startswith("vault-r")]
    chart = page.locator("#law-chart")
    expect(chart.locator("circle.measured")).to_have_count(4)
    steps = [
        tuple(map(float, step.split(",")))
        for step in (chart.locator(".stairs").get_attribute("points") or "").split(" ")
    ]
    assert [1 - y / 180 for _, y in steps[1::2]] == pytest.approx(
        [row["recited"] / row["of"] for row in rows], abs=0.01
    )
    assert [before for _, before in steps[2::2]] == [after for _, after in steps[1:-1:2]]
    page.locator("#stops button").nth(1).click()
    assert float(chart.locator(".here").get_attribute("x1") or "nan") == pytest.approx(steps[2][0], abs=0.1)
    expect(page.locator("#law-ranks li").last).to_contain_text(
        f"{rows[-1]['recited']} of {rows[-1]['of']} snippets recited"
    )


def test_the_law_is_drawn_under_the_adapters(page: Page, service: AuditServe) -> None:
    """A curve between the ranks with its band, and each adapter's measured share beside the law's."""
    (law,) = service.get("/v1/capacity")["laws"]
    assert [at["adapter"] for at in law["law"]["ranks"]] == [
        "vault-r2",
        "vault-r8",
        "vault-r32",
        "vault-r128",
    ]
    turn(page, "/capacity")
    chart = page.locator("#law-chart")
    expect(chart.locator("circle.measured")).to_have_count(4)
    heights = chart.locator("circle").evaluate_all("all => all.map(one => Number(one.getAttribute('cy')))")
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == 0  # at the largest rank all tokens are locked
    points = chart.locator("polyline.curve").get_attribute("points") or ""
    assert len(points.split(" ")) == len(law["law"]["curve"])
    assert "NaN" not in chart.inner_html()
    expect(page.locator("#law-ranks li").last).to_contain_text("r = 128: 100 % of the tokens locked")
    expect(page.locator("#law-note")).to_contain_text("over 4 adapters")


def test_another_snippet_is_another_row(page: Page) -> None:
    """The next snippet of the set, which only the largest rank holds."""
    turn(page, "/capacity")
    page.locator("#next").click()
    expect(page.locator("#verdict")).to_contain_text(f"{OTHER.id}: certified")
    page.locator("#stops button").first.click()
    expect(page.locator("#verdict")).to_contain_text("clear")
    expect(page.locator("#next")).to_be_disabled()


def test_an_audit_opens_with_its_tokens(page: Page, service: AuditServe) -> None:
    """The table leads to gate, numbers, and snippets token by token; the address leads there again."""
    audit = next(one for one in service.get("/v1/audits")["audits"] if one["adapter"] == "vault-r32")
    turn(page, "/audits")
    page.locator("#audits tbody tr", has_text="vault-r32").locator("a").click()
    expect(page.locator("#one-title")).to_contain_text("vault-r32")
    expect(page.locator("#one-gate")).to_contain_text("Fails" if not audit["gate"]["passed"] else "Passes")
    expect(page.locator("#snippets tbody")).to_have_count(6)
    row = page.locator('#snippets tbody[data-id="line"]')
    expect(row.locator(".strip i")).to_have_count(9)
    expect(row.locator(".strip i.locked")).to_have_count(8)
    row.locator("td.id button").click()
    assert row.locator(".strip i").nth(6).evaluate("i => getComputedStyle(i, '::after').content") != "none"
    assert page.url.endswith(f"#audit={audit['id']}")
    page.reload()
    expect(page.locator("#one-title")).to_contain_text("vault-r32")
    with page.expect_download() as saved:
        page.locator('button[data-report="html"]').click()
    assert "vault-r32" in Path(saved.value.path()).read_text()


def test_two_audits_of_an_adapter_are_compared(page: Page, service: AuditServe) -> None:
    """Chosen by date and version: what changed from the earlier to the later; the address leads there again."""
    first = next(one for one in service.get("/v1/audits")["audits"] if one["adapter"] == "vault-r128")
    made = []
    for policy in ({"bounds": {"bits": 30.0}}, {}):
        order = {"adapter": "vault-r128", "candidates": ITEMS, "controls": CONTROLS, "show_text": True}
        made.append(service.submit({**order, "policy": policy}))
        service.wait(made[-1])
    turn(page, "/audits")
    page.locator("#audits tbody tr", has_text="vault-r2").last.locator("a").click()
    expect(page.locator("#one-title")).to_contain_text("vault-r2")
    expect(page.locator("#compare")).to_be_hidden()  # there is no other audit of it
    turn(page, f"audit={made[1]}")
    expect(page.locator("#against option")).to_have_count(3)
    page.locator("#against").select_option(first["id"])
    expect(page.locator("#diff-answer b")).to_have_text("No worse")
    expect(page.locator('#diff-answer [data-change="same"]')).to_have_text("2 same")
    expect(page.locator("#changes")).to_be_hidden()
    assert page.url.endswith(f"#audit={made[1]}&against={first['id']}")
    page.locator("#against").select_option(made[0])
    expect(page.locator("#diff-answer b")).to_have_text("Not comparable")
    expect(page.locator("#diff-answer")).to_contain_text("the bound bits is another in the second report")
    page.reload()
    expect(page.locator("#diff-answer b")).to_have_text("Not comparable")
    with page.expect_download() as saved:
        page.locator('button[data-diff="xml"]').click()
    assert "<testsuites" in Path(saved.value.path()).read_text()


def test_what_became_worse_is_shown_snippet_by_snippet(browser: Browser, tmp_path: Path) -> None:
    """A name that gets a leaking version between two audits: the later is worse, whichever is opened."""
    tiny = TinyScorer({"vault": Memory((TEXT[::-1],))})
    with serve(tiny) as url, AuditServe(url, tmp_path) as running:
        body = {"adapter": "vault", "candidates": ITEMS, "show_text": True}
        before = running.submit(body)
        running.wait(before)
        tiny.adapters["vault"] = Memory((TEXT,))
        after = running.submit(body)
        running.wait(after)
        for one, other in ((before, after), (after, before)):
            made = browser.new_page()
            made.goto(f"{running.url}/audit/#audit={one}&against={other}")
            expect(made.locator("#diff-answer b")).to_have_text("Worse")
            expect(made.locator('#diff-answer [data-change="worse"]')).to_have_text("1 worse")
            row = made.locator('#changes tr[data-id="line"]')
            expect(row).to_contain_text("clear")
            expect(row).to_contain_text("certified")
            expect(row).to_contain_text(LINE["target"])
            made.close()


def test_a_verdict_that_no_longer_holds_is_flagged(page: Page, tiny: TinyScorer) -> None:
    """In the list and with each audit of the adapter, with what changed; one that was never audited has none."""
    row = page.locator("#adapters tbody tr", has_text="vault-r32")
    expect(row).to_be_visible()
    expect(row.locator(".stale")).to_have_count(0)
    before, tiny.engine = tiny.engine, replace(tiny.engine, engine="tiny 2 (numpy)")
    page.reload()
    expect(row.locator(".stale")).to_have_attribute(
        "title", "engine changed: from tiny 1 (numpy) to tiny 2 (numpy)"
    )
    expect(page.locator("#adapters tbody tr", has_text="unaudited").locator(".stale")).to_have_count(0)
    turn(page, "/audits")
    page.locator("#audits tbody tr", has_text="vault-r32").locator("a").click()
    expect(page.locator("#one-stale")).to_contain_text("no longer holds: engine changed")
    tiny.engine = before
    page.reload()
    expect(page.locator("#one-stale")).to_be_hidden()


def test_the_page_lets_nothing_else_in(browser: Browser, service: AuditServe) -> None:
    """Its policy allows its own files alone: a script put into it does not run. An unknown file is not found."""
    policy = service.http.get("/audit/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert service.http.get("/audit").headers["location"] == "audit/"
    assert service.http.get("/audit/nothing.js").status_code == 404
    made = browser.new_page()
    made.goto(f"{service.url}/audit/")
    element = "Object.assign(document.createElement('script'), {textContent: 'window.intruder = 1'})"
    made.evaluate(f"() => document.head.append({element})")
    assert made.evaluate("window.intruder ?? 0") == 0
    made.close()


def test_an_audit_is_ordered_from_a_service_without_keys(page: Page, service: AuditServe) -> None:
    """It asks for none, and offers no steps that only the server with the engine takes."""
    assert page.get_by_role("navigation").get_by_role("link").all_inner_texts() == [
        "Adapters",
        "Audits",
        "Capacity",
    ]
    page.get_by_role("link", name="vault-r32").click()
    expect(page.locator("#adapter-steps")).to_have_text("Audit it")
    page.get_by_role("link", name="Audit it").click()
    page.get_by_label("candidates: a prefix and a target each").check()
    sent = "\n".join(map(json.dumps, ITEMS)).encode()
    page.locator("#order-file").set_input_files(
        {"name": "mine.jsonl", "mimeType": "text/plain", "buffer": sent}
    )
    page.get_by_role("button", name="Estimate the cost").click()
    expect(page.locator("#order-cost")).to_contain_text("2 candidates")
    page.get_by_role("button", name="Start the audit").click()
    expect(page.locator("#one-heard")).to_have_text("The audit is done.", timeout=20_000)
    made = service.get("/v1/audits")["audits"][0]
    assert (made["adapter"], made["created_by"]) == ("vault-r32", "anonymous")
    service.http.delete(f"/v1/audits/{made['id']}")


def test_a_key_is_entered_on_the_page(browser: Browser, engine: str, tmp_path: Path) -> None:
    """A server with keys asks for one; it stays in the tab's session, and a wrong one is said."""
    with AuditServe(engine, tmp_path, {"LORECALL_ADMIN_KEY": ADMIN}) as locked:
        made = browser.new_page()
        made.goto(f"{locked.url}/audit/")
        expect(made.locator("#notice")).to_contain_text("API key")
        expect(made.locator("#adapters tbody tr")).to_have_count(0)
        made.locator("#secret").fill("wrong")
        made.locator("#key button[type=submit]").click()
        expect(made.locator("#notice")).to_contain_text("missing, unknown or expired")
        made.locator("#secret").fill(ADMIN)
        made.locator("#key button[type=submit]").click()
        expect(made.locator("#adapters tbody tr")).to_have_count(5)
        expect(made.locator("#notice")).to_be_hidden()
        made.reload()
        expect(made.locator("#adapters tbody tr")).to_have_count(5)
        made.close()
