"""The scope that each route needs; a route that is not listed needs `admin`, so a new one starts closed."""

import re
from dataclasses import dataclass

from lorecall.adapters.access.keys import ApiKey, Scope


@dataclass(frozen=True, slots=True)
class Need:
    """What a route requires of its caller.

    Attributes:
        open: Whether it needs no API key.
        scopes: Any one of these suffices; empty where every key may call it.
        model: Whether its JSON body names a model in `model` (left out, it is the base).
    """

    open: bool = False
    scopes: frozenset[Scope] = frozenset()
    model: bool = False

    @property
    def operates(self) -> bool:
        """Whether it is about adapters, audits or keys, not inference."""
        return bool(self.scopes) and Scope.INFER not in self.scopes

    def met_by(self, key: ApiKey | None) -> bool:
        """Return whether a caller may call the route; None is a caller of a server without keys."""
        return key is None or not self.scopes or any(map(key.may, self.scopes))


OPEN = Need(open=True)
ANY_KEY = Need()
ADMIN = Need(scopes=frozenset({Scope.ADMIN}))
ADAPTERS = Need(scopes=frozenset({Scope.ADAPTERS}))
INFER = Need(scopes=frozenset({Scope.INFER, Scope.AUDIT}), model=True)
AUDITS = Need(scopes=frozenset({Scope.AUDIT}))
AUDIT = Need(scopes=frozenset({Scope.AUDIT}), model=True)

_RULES: tuple[tuple[str, str, Need], ...] = (
    (r"GET|HEAD|POST", r"/ping", OPEN),
    (r"GET|HEAD", r"/health", OPEN),
    (r"GET|HEAD", r"/version|/openapi\.json|/docs|/docs/oauth2-redirect|/redoc", ANY_KEY),
    (r"GET|HEAD", r"/v1/models(/.+)?|/v1/engine", ANY_KEY),
    (r"GET", r"/v1/keys/self", ANY_KEY),
    (r"GET", r"/v1/adapters|/v1/adapters/[^/]+", ANY_KEY),
    (r"GET", r"/v1/events|/v1/adapters/[^/]+/events", ADAPTERS),
    (r"POST", r"/v1/adapters|/v1/adapters/[^/]+/(archive|rollback|pin)", ADAPTERS),
    (r"DELETE", r"/v1/adapters/[^/]+", ADAPTERS),
    (r"POST", r"/v1/(un)?load_lora_adapter|/adapters", ADAPTERS),
    (r"DELETE", r"/adapters/[^/]+", ADAPTERS),
    (r"GET|HEAD", r"/audit/?|/audit/[^/]+", OPEN),  # the page's own files, without data
    (r"GET", r"/v1/audits/[^/]+", Need(scopes=frozenset({Scope.AUDIT, Scope.ADAPTERS}))),
    (r"GET", r"/v1/capacity(/sets(/[^/]+/law)?)?", AUDITS),
    (r"GET", r"/v1/audits|/v1/audits/[^/]+/(snippets|report\.[^/]+|diff/[^/]+)", AUDITS),
    (r"POST", r"/v1/audits|/v1/audits/estimate|/v1/audits/[^/]+/cancel", AUDITS),
    (r"DELETE", r"/v1/audits/[^/]+", AUDITS),
    (r"POST", r"/v1/score", AUDIT),
    (r"POST", r"/v1/(chat/)?completions(/render|/batch)?|/v1/responses|/v1/messages", INFER),
    (r"POST", r"/v1/messages/count_tokens|/tokenize|/detokenize|/invocations", INFER),
    (r"POST", r"/inference/v1/generate|/generative_scoring", INFER),
)
_COMPILED = tuple((re.compile(methods), re.compile(paths), need) for methods, paths, need in _RULES)
_ADAPTER_PATH = re.compile(r"/v1/adapters/([^/]+)(/.*)?")


def need_of(method: str, path: str, *, open_metrics: bool = False) -> Need:
    """Return what a route requires.

    Args:
        method: The HTTP method.
        path: The path, decoded, without the server's root path.
        open_metrics: Whether `/metrics` and `/load`, which show what others do, need no key.
    """
    if open_metrics and path in ("/metrics", "/metrics/", "/load") and method in ("GET", "HEAD"):
        return OPEN
    for methods, paths, need in _COMPILED:
        if methods.fullmatch(method) and paths.fullmatch(path):
            return need
    return ADMIN


def adapter_of(path: str) -> str | None:
    """Return the adapter that a path of the control plane names."""
    match = _ADAPTER_PATH.fullmatch(path)
    return match[1] if match else None
