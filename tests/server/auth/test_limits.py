"""What a request counts as, and whose limits it is charged to."""

import asyncio
from typing import Any

import pytest
from lorecall.adapters.access.keys import ApiKey, Scope
from lorecall.adapters.access.rate_limit import RateLimitedError, RateLimits
from lorecall.server.auth.limits import Limits, limits_of, texts_in
from lorecall.server.auth.request_context import RequestContext, charge_audit, current

FIVE = RateLimits(requests_per_minute=5)


def key(name: str = "k", patterns: tuple[str, ...] = ("*",), **limits: float) -> ApiKey:
    """A key of its own id."""
    return ApiKey(f"id-of-{name}", "k", "0" * 64, frozenset({Scope.AUDIT}), patterns, RateLimits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({}, 1),
        ({"prompt": "one"}, 1),
        ({"prompt": ["one", "two"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3], [4]]}, 3),
        ({"prompt": []}, 1),
        ({"messages": [{"role": "user"}, {"role": "user"}]}, 1),
        ({"messages": [[{"role": "user"}], [{"role": "user"}]]}, 2),
        ({"input": ["one conversation", "of two"]}, 1),
        ({"items": [{}] * 64}, 64),
        ({"items": []}, 1),
        ({"items": "text"}, 1),
        ({"items": None, "prompt": None, "messages": None}, 1),
        ({"candidates": [{}] * 3, "controls": [{}] * 4}, 7),
    ],
)
def test_a_request_counts_by_its_texts(body: dict[str, Any], texts: int) -> None:
    """One for each text that the engine computes by itself; whatever else a body holds is one."""
    assert texts_in(body) == texts


def test_audits_leave_a_models_traffic_its_allowance() -> None:
    """The limits of a model hold for audits and traffic apart; those of a key for both together."""
    limits = Limits({"acme-*": FIVE})

    async def run() -> None:
        await limits.admit(None, "acme-a", texts=50, audit=True)
        for _ in range(5):
            await limits.admit(None, "acme-a")
        for audit, whose in ((True, "audits of 'acme-a'"), (False, "model 'acme-a'")):
            with pytest.raises(RateLimitedError, match=whose):
                await limits.admit(None, "acme-a", audit=audit)
        await limits.admit(None, "acme-b", audit=True)
        mine = key(requests_per_minute=5.0)
        await limits.admit(mine, "other", texts=50, audit=True)
        with pytest.raises(RateLimitedError, match="API key 'k'"):
            await limits.admit(mine, "other")

    asyncio.run(run())


def test_two_keys_of_one_name_have_two_allowances() -> None:
    """Names are for people: limits go by the key."""
    limits = Limits()

    async def run() -> None:
        await limits.admit(key("one", requests_per_minute=1.0))
        await limits.admit(key("two", requests_per_minute=1.0))
        with pytest.raises(RateLimitedError):
            await limits.admit(key("one", requests_per_minute=1.0))

    asyncio.run(run())


def test_an_audit_is_charged_to_what_its_key_sees() -> None:
    """By texts and by tokens; another tenant's adapter cannot be brought to its limit by naming it."""
    limits = Limits({"*": FIVE})

    async def charge(model: str, texts: int, tokens: int = 0, **own: float) -> None:
        current.set(RequestContext(key("k", ("acme-*",), **own), limits=limits))
        await charge_audit(model, texts, tokens)

    async def run() -> None:
        await charge("acme-a", 6)
        with pytest.raises(RateLimitedError, match="audits of 'acme-a'"):
            await charge("acme-a", 1)
        await charge("globex-b", 6)
        await limits.admit(None, "globex-b", audit=True)
        await charge("acme-c", 1, 700, tokens_per_minute=600.0)
        with pytest.raises(RateLimitedError) as caught:
            await charge("acme-d", 1, 0, tokens_per_minute=600.0)
        assert caught.value.limit == "tokens_per_minute"
        assert caught.value.retry_after == pytest.approx(10, abs=2)

    asyncio.run(run())


def test_the_first_pattern_counts() -> None:
    """In the order in which the operator wrote them; `*` and `?` match as in keys."""
    by_pattern = {"org/*": FIVE, "*": RateLimits(concurrent=1)}
    assert limits_of("org/model", by_pattern) == FIVE
    assert limits_of("acme", by_pattern) == RateLimits(concurrent=1)
    assert limits_of("acme", {}) == RateLimits()
