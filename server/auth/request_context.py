"""The HTTP request that the current task serves: its API key, leases and tokens; vLLM's handlers read it too."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from lorecall.adapters.access.keys import ApiKey, Scope
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.auth.limits import Limits

ANONYMOUS = "anonymous"


class ForbiddenError(LorecallError):
    """The API key is valid, but may not do this."""

    exit_code = 2
    status = 403
    code = "forbidden"


class Lease(Protocol):
    """A request's hold on one version of an adapter."""

    @property
    def lora_request(self) -> Any:
        """The engine's request for the version."""

    @property
    def version(self) -> str:
        """The version's digest."""

    def release(self) -> None:
        """Give the version back; a second call does nothing."""


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request: its caller, the versions that it holds in the engine, the tokens that it used.

    Attributes:
        key: The caller's key; None on a server without keys.
        leases: The adapter versions that it runs on, by name; a name keeps its version until the request ends.
        tokens: Tokens of prompts and answers that it has used so far.
        failure: Why a generation of it was aborted; None if none was.
        limits: The server's rate limits.
    """

    key: ApiKey | None = None
    leases: dict[str, Lease] = field(default_factory=dict)
    tokens: int = 0
    failure: LorecallError | None = None
    limits: Limits = field(default_factory=Limits)

    def sees(self, model: str) -> bool:
        """Whether the caller may see a model of that name."""
        return self.key is None or self.key.sees(model)

    def require(self, scope: Scope) -> None:
        """Check a scope.

        Raises:
            ForbiddenError: The key does not have it.
        """
        if self.key is not None and not self.key.may(scope):
            raise ForbiddenError(f"the API key {self.key.name!r} lacks the scope {scope}")

    @property
    def privileged(self) -> bool:
        """Whether the caller may go before others: a key with `audit` or `admin`, or a server without keys."""
        return self.key is None or self.key.may(Scope.AUDIT)

    @property
    def actor(self) -> str:
        """The caller's name, as the registry records it."""
        return self.key.name if self.key is not None else ANONYMOUS

    def release(self) -> None:
        """Give back every lease."""
        for lease in self.leases.values():
            lease.release()


current: ContextVar[RequestContext | None] = ContextVar("lorecall_request", default=None)


def sees(model: str) -> bool:
    """Whether the current request may see a model; outside a request, everything may be seen."""
    context = current.get()
    return context is None or context.sees(model)


def manages() -> bool:
    """Whether the current request may add adapters, and so see where one came from; outside a request, yes."""
    context = current.get()
    return context is None or context.key is None or context.key.may(Scope.ADAPTERS)


def operates() -> bool:
    """Whether the current request is the operator's: of a key with `admin`, or on a server without keys."""
    context = current.get()
    return context is None or context.key is None or context.key.may(Scope.ADMIN)


async def charge_audit(model: str, texts: int, tokens: int) -> None:
    """Charge an audit to the current request's key, and to the model if the key sees it.

    Raises:
        RateLimitedError: A limit is reached; nothing was charged.
    """
    context = current.get() or RequestContext()
    seen = model if context.sees(model) else ""
    admission = await context.limits.admit(context.key, seen, texts=texts, tokens=tokens, audit=True)
    await admission.finish()


def own_sources() -> SourceList | None:
    """Return where the current request's key may add adapters from; None where it is not limited."""
    context = current.get()
    return context.key.sources if context is not None and context.key is not None else None


def actor() -> str:
    """Return the caller's name of the current request; "server" outside a request."""
    context = current.get()
    return context.actor if context is not None else "server"
