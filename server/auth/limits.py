"""The rate limits of API keys and of models, as every route charges them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from lorecall.adapters.access.keys import ApiKey
from lorecall.adapters.access.rate_limit import AdmittedRequest, RateLimiter, RateLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may ask for in a minute, and at once.

    Attributes:
        by_model: Limits by pattern of the model's name; the first that matches counts.
        limiter: Counts what was asked for.
    """

    by_model: Mapping[str, RateLimits] = field(default_factory=dict)
    limiter: RateLimiter = field(default_factory=RateLimiter)

    async def admit(
        self, key: ApiKey | None, model: str = "", *, texts: int = 1, tokens: int = 0, audit: bool = False
    ) -> AdmittedRequest:
        """Admit a request.

        Args:
            key: The caller's key.
            model: The model that it asks; "" for none.
            texts: How many texts it holds: it counts as so many requests.
            tokens: Tokens known in advance.
            audit: Whether it scores texts. The limits of a model hold for its audits and its traffic apart, so
                that no audit takes the traffic's allowance.

        Raises:
            RateLimitedError: A limit is reached.
        """
        limits: dict[str, RateLimits] = {}
        if key is not None:
            limits[f"API key {key.name!r} ({key.id})"] = key.limits  # names need not be unique
        if model:
            whose = f"audits of {model!r}" if audit else f"model {model!r}"
            limits[whose] = limits_of(model, self.by_model)
        return await self.limiter.admit(limits, requests=texts, tokens=tokens)


def limits_of(model: str, by_pattern: Mapping[str, RateLimits]) -> RateLimits:
    """Return the limits of the first pattern that a model's name matches, or none."""
    found = (limits for pattern, limits in by_pattern.items() if fnmatchcase(model, pattern))
    return next(found, RateLimits())


def texts_in(body: Mapping[str, Any]) -> int:
    """Return how many texts a request's JSON body asks for, at least 1.

    Counts the items to score, the prompts or conversations of a batch, and the snippets that an adapter is to be
    audited for.
    """
    lists = [body.get(name) for name in ("items", "candidates", "controls")]
    batches = [body.get(name) for name in ("prompt", "prompt_embeds", "messages")]
    lists += [one for one in batches if isinstance(one, list) and one and isinstance(one[0], str | list)]
    return max(1, sum(len(one) for one in lists if isinstance(one, list)))
