"""What callers may ask of the engine, whichever way it came in."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.access.keys import ApiKey, Scope
from lorecall.adapters.access.rate_limit import RateLimits
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.auth.engine_guard import guard_engine
from lorecall.server.auth.request_context import RequestContext, current
from vllm.exceptions import RetryableRequestError
from vllm.v1.engine.exceptions import EngineGenerateError


class Engine:
    """Records what reaches it, and answers or raises as told."""

    def __init__(self, outputs: tuple[Any, ...] = (), error: Exception | None = None) -> None:
        self.outputs, self.error, self.seen = outputs, error, SimpleNamespace()

    async def generate(
        self, _prompt: Any, params: Any, _id: str, *, priority: int = 0, **_others: Any
    ) -> AsyncIterator[Any]:
        """Record, then answer."""
        self.seen = SimpleNamespace(extra=params.extra_args, priority=priority)
        if self.error is not None:
            raise EngineGenerateError from self.error
        for output in self.outputs:
            yield output


def ask(engine: Engine, scopes: frozenset[Scope] | None, **params: Any) -> list[Any]:
    """Send one request through the guard as a key of these scopes; None for a server without keys."""
    guard_engine(engine, lambda _lora, stream: stream)
    priority = params.pop("priority", 0)
    sampling = SimpleNamespace(**{"extra_args": None, "structured_outputs": None, **params})
    key = None if scopes is None else ApiKey("1", "k", "0" * 64, scopes, ("*",), RateLimits(), None)

    async def run() -> list[Any]:
        token = current.set(RequestContext(key=key))
        try:
            return [output async for output in engine.generate("x", sampling, "1", priority=priority)]
        finally:
            current.reset(token)

    return asyncio.run(run())


INFER = frozenset({Scope.INFER})


@pytest.mark.parametrize("value", ["x", 999_999, -1, True, 1e9, None])
def test_our_own_arguments_are_dropped(value: Any) -> None:
    """`lorecall_score_from` of any caller, an admin's too, never reaches a worker; other arguments do."""
    for scopes in (INFER, frozenset({Scope.ADMIN}), None):
        engine = Engine()
        ask(engine, scopes, extra_args={"lorecall_score_from": value, "other": 1})
        assert engine.seen.extra == {"other": 1}
        ask(engine := Engine(), scopes, extra_args={"lorecall_score_from": value})
        assert engine.seen.extra is None


@pytest.mark.parametrize(
    ("scopes", "sent", "arrives"),
    [
        (INFER, -(2**63), 0),
        (INFER, 5, 5),
        (frozenset({Scope.AUDIT}), -3, -3),
        (frozenset({Scope.ADMIN}), -3, -3),
        (None, -3, -3),
    ],
)
def test_only_the_privileged_jump_the_queue(scopes: frozenset[Scope] | None, sent: int, arrives: int) -> None:
    """A priority below 0 is for keys with `audit` or `admin`; everybody may yield."""
    engine = Engine()
    ask(engine, scopes, priority=sent)
    assert engine.seen.priority == arrives


@pytest.mark.parametrize("error", [OverflowError(), UnicodeEncodeError("utf-8", "x", 0, 1, "y"), TypeError()])
def test_a_value_that_the_engine_cannot_take_is_the_callers_error(error: Exception) -> None:
    """ValueError, which vLLM answers with 400; any other failure stays the server's."""
    with pytest.raises(ValueError, match="cannot take"):
        ask(Engine(error=error), INFER)
    with pytest.raises(EngineGenerateError):
        ask(Engine(error=RuntimeError()), INFER)


@pytest.mark.parametrize("tokens", [[], [0]])
def test_a_grammar_that_allows_nothing_is_the_callers_error(tokens: list[int]) -> None:
    """It does not compile, or the engine's first token is refused by it; without one the output passes."""
    failed = SimpleNamespace(outputs=[SimpleNamespace(finish_reason="error", token_ids=tokens)])
    with pytest.raises(ValueError, match="no text can have"):
        ask(Engine((failed,)), INFER, structured_outputs=object())
    assert ask(Engine((failed,)), INFER) == [failed]


def test_a_generation_whose_version_was_replaced_ends_with_an_error_that_says_so() -> None:
    """VLLM's own error for what may be repeated: 503. The base and the server's own work are not held."""

    class GoneError(LorecallError):
        """What a hold raises."""

    async def gone(_lora: Any, stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        async with contextlib.aclosing(stream):
            async for output in stream:
                yield output
                raise GoneError("replaced", hint="repeat the request")

    async def ask_twice(lora: Any, *, outside: bool) -> list[Any]:
        engine: Any = Engine(("first", "second"))
        guard_engine(engine, gone)
        token = current.set(None if outside else RequestContext())
        try:
            params = SimpleNamespace(extra_args=None, structured_outputs=None)
            return [output async for output in engine.generate("x", params, "1", lora_request=lora)]
        finally:
            current.reset(token)

    with pytest.raises(RetryableRequestError, match=r"replaced \(repeat the request\)"):
        asyncio.run(ask_twice(object(), outside=False))
    assert asyncio.run(ask_twice(None, outside=False)) == ["first", "second"]
    assert asyncio.run(ask_twice(object(), outside=True)) == ["first", "second"]
