"""The salt that parts one key's cached prompts from another's."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lorecall.adapters.access.keys import ApiKey, Scope, digest_secret
from lorecall.server.auth.cache_salt import salted
from lorecall.server.auth.engine_guard import guard_engine, unguarded
from lorecall.server.auth.request_context import RequestContext, current
from vllm.entrypoints.generate.base.protocol import validate_cache_salt


def key(name: str) -> ApiKey:
    """A key of its own secret."""
    return ApiKey(name, name, digest_secret(f"the secret of {name}"), frozenset({Scope.INFER}))


A, B = key("a"), key("b")
OWN_SALTS = st.text(st.characters(codec="utf-8"), max_size=128)


def salt(prompt: Any, of: ApiKey) -> str:
    """The salt that a prompt gets."""
    return str(salted(prompt, of)["cache_salt"])


@pytest.mark.parametrize(
    "prompt",
    [
        "a text",
        {"prompt": "a text"},
        {"prompt_token_ids": [1, 2]},
        {"type": "token", "prompt_token_ids": [1]},
    ],
)
def test_every_form_of_prompt_is_salted(prompt: Any) -> None:
    """The prompt is kept, each key has one salt of its own, and the caller's object stays as it was."""
    before = dict(prompt) if isinstance(prompt, dict) else {"prompt": prompt}
    found = salted(prompt, A)
    assert {name: value for name, value in found.items() if name != "cache_salt"} == before
    assert prompt in (before, before.get("prompt", before))
    assert salt(prompt, A) == salt(prompt, A) != salt(prompt, B)
    validate_cache_salt(found["cache_salt"])


def test_an_encoder_decoder_prompt_is_salted_where_the_engine_looks() -> None:
    """The engine reads the salt of the decoder's prompt."""
    found = salted({"type": "enc_dec", "decoder_prompt": {"type": "token", "prompt_token_ids": [1]}}, A)
    assert found["decoder_prompt"]["cache_salt"] == salt("x", A)


def test_a_prompt_in_parts_is_refused() -> None:
    """A stream of prompts holds no salt, so it is not taken."""

    async def stream() -> AsyncIterator[Any]:
        yield "x"

    with pytest.raises(ValueError, match="in parts"):
        salted(stream(), A)


@given(own=OWN_SALTS, other=OWN_SALTS)
def test_no_salt_of_the_callers_reaches_another_key(own: str, other: str) -> None:
    """A caller's salt parts its own prompts, and neither its own nor another key's salt can be asked for."""
    one = salt({"prompt": "x", "cache_salt": own}, A)
    assert one != salt({"prompt": "x", "cache_salt": other}, B)
    assert (one == salt({"prompt": "x", "cache_salt": other}, A)) == (own == other)
    assert salt({"prompt": "x", "cache_salt": salt("x", B)}, A) != salt("x", B)


class Engine:
    """Records the prompts that reach it."""

    def __init__(self) -> None:
        self.prompts: list[Any] = []

    async def generate(self, prompt: Any, _params: Any, _id: str, **_others: Any) -> AsyncIterator[Any]:
        """Record."""
        self.prompts.append(prompt)
        yield "an output"


@pytest.mark.parametrize(
    ("caller", "shared", "salts"),
    [(A, False, True), (A, True, False), (None, False, False), ("server", False, False)],
)
def test_who_is_salted(caller: Any, shared: bool, salts: bool) -> None:  # noqa: FBT001
    """Every request with a key, unless the operator shares the cache; none of the server's own."""
    engine = Engine()
    guard_engine(engine, lambda _request, stream: stream, shared_cache=shared)

    async def ask() -> None:
        if caller != "server":
            current.set(RequestContext(key=caller))
        sampling = SimpleNamespace(extra_args=None, structured_outputs=None)
        for generate in (engine.generate, unguarded(engine)):
            async for _ in generate({"prompt": "x"}, sampling, "1"):
                pass

    asyncio.run(ask())
    guarded, own = engine.prompts
    assert guarded == ({"prompt": "x", "cache_salt": salt("x", A)} if salts else {"prompt": "x"})
    assert own == {"prompt": "x"}
