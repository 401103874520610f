"""What callers may ask of the engine: every generation passes here, by whichever route or header it came."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.auth.request_context import RequestContext, current

OURS = "lorecall_"
"""Prefix of the extra sampling arguments that only this server sets."""

CALLERS_FAULT = (TypeError, ValueError, OverflowError, RecursionError)
"""What vLLM's input processing raises of values that it cannot use."""


Hold = Callable[[Any, AsyncGenerator[Any, None]], AsyncGenerator[Any, None]]
"""From a LoRA request and a generation, the same generation, which keeps the adapter's version in the engine."""


def guard_engine(engine_client: Any, hold: Hold) -> None:
    """Make an engine client refuse or ignore what callers must not ask, from now on.

    Extra arguments of ours are dropped: a worker acts on them. A priority below 0 becomes 0 unless the caller's
    key has the scope `audit` or `admin`: it would overtake everybody. Values that vLLM cannot use are the
    caller's error (ValueError, which vLLM answers with 400) and not the server's. A generation whose version may
    stay no longer is aborted and ends with vLLM's own error for what may be repeated: 503, or that error in the
    stream.

    Args:
        engine_client: vLLM's client of the engine.
        hold: Holds a request's version; requests of the server's own hold theirs themselves.
    """
    from vllm.v1.engine.exceptions import EngineGenerateError  # noqa: PLC0415  vLLM's environment is set by now

    generate = engine_client.generate

    async def guarded(
        prompt: Any, sampling_params: Any, request_id: str, *, priority: int = 0, **others: Any
    ) -> AsyncIterator[Any]:
        drop_ours(sampling_params)
        context = current.get()
        if context is not None and not context.privileged:
            priority = max(0, priority)
        stream = generate(prompt, sampling_params, request_id, priority=priority, **others)
        if context is not None and others.get("lora_request") is not None:
            stream = hold(others["lora_request"], stream)
        try:
            async with contextlib.aclosing(stream):
                async for output in stream:
                    if grammar_failed(output, sampling_params):
                        raise ValueError("no text can have the structured output that was asked for")
                    yield output
        except LorecallError as error:
            raise repeatable(error, context) from error
        except EngineGenerateError as error:
            if isinstance(error.__cause__, CALLERS_FAULT):
                kind = type(error.__cause__).__name__
                problem = f"the engine cannot take a value of this request ({kind})"
                raise ValueError(problem) from error  # noqa: TRY004  vLLM answers a ValueError with 400
            raise

    guarded.unguarded = generate  # type: ignore[attr-defined]  # for `unguarded`
    engine_client.generate = guarded


def drop_ours(sampling_params: Any) -> None:
    """Take the extra arguments that only this server sets out of a caller's."""
    extra = getattr(sampling_params, "extra_args", None)
    if extra:
        sampling_params.extra_args = {k: v for k, v in extra.items() if not k.startswith(OURS)} or None


def repeatable(error: LorecallError, context: RequestContext | None) -> Exception:
    """Return vLLM's error for a generation that was aborted and may be repeated, and remember why it was."""
    from vllm.exceptions import RetryableRequestError  # noqa: PLC0415  vLLM's environment is set by now

    if context is not None:
        context.failure = error
    return RetryableRequestError(str(error))  # type: ignore[no-any-return]  # vLLM ships no types


def unguarded(engine_client: Any) -> Callable[..., AsyncIterator[Any]]:
    """Return an engine client's `generate` for requests of the server's own, which may set our arguments."""
    generate = engine_client.generate
    return getattr(generate, "unguarded", generate)  # type: ignore[no-any-return]


def grammar_failed(output: Any, sampling_params: Any) -> bool:
    """Return whether the engine gave a structured output up: its grammar does not compile, or allows no token."""
    if getattr(sampling_params, "structured_outputs", None) is None:
        return False
    return any(one.finish_reason == "error" for one in output.outputs)
