"""Whether a verdict still holds: what its audit ran on and was judged by, against what is served now."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Self

from lorecall.adapters.core.canonical_json import digest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.jobs.last_audits import LastAudits
from lorecall.audit.jobs.records import LastAudit
from lorecall.audit.policy.policy import Policy
from lorecall.audit.policy.policy_file import check_policy
from lorecall.audit.scorer import EngineInfo
from pydantic import TypeAdapter, ValidationError

UNREADABLE = "what another release wrote"
SHORT = 12
"""Characters of a digest that are shown."""
_ENGINE = TypeAdapter(EngineInfo)


class Cause(StrEnum):
    """What changed since an audit, so that its verdict is stale."""

    VERSION = "version"
    BASE = "base"
    ENGINE = "engine"
    DEVICE = "device"
    DTYPE = "dtype"
    KV_CACHE = "kv_cache"
    QUANTIZATION = "quantization"
    SAMPLING = "sampling"
    POLICY = "policy"


NEWER = frozenset((Cause.DEVICE, Cause.DTYPE, Cause.KV_CACHE))
"""What older servers and records do not say, so that nothing is known to have changed."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a verdict holds for, beside the version of the adapter.

    Attributes:
        parts: What is compared, in words: the same words mean the same terms.
    """

    parts: Mapping[Cause, str]

    @classmethod
    def of(cls, engine: EngineInfo, policy: Policy | None) -> Self:
        """Return those of an engine, and of the policy that admits; None where no policy does."""
        held = {} if policy is None else {Cause.POLICY: digest(policy.model_dump(mode="json"))}
        return cls({**_engine_parts(engine), **held})

    @property
    def digest(self) -> str:
        """The sha256 of all of it, in hex."""
        return digest({str(cause): words for cause, words in self.parts.items()})


def reasons(audit: LastAudit, live: str, now: Terms) -> dict[Cause, str]:
    """Return why the verdict of an audit is stale, one sentence for each cause; empty where it holds.

    Nothing is said of a policy where none admits adapters now, nor of a device or dtype that one side does not
    state.

    Args:
        audit: The audit.
        live: The version that is live now.
        now: What is served now.
    """
    then = {Cause.VERSION: audit.version, **_recorded(audit)}
    found = {Cause.VERSION: live, **now.parts}
    return {
        cause: f"{cause} changed: from {_shown(then[cause])} to {_shown(found[cause])}"
        for cause in Cause
        if cause in found
        and then[cause] != found[cause]
        and (cause not in NEWER or (then[cause] and found[cause]))
    }


@dataclass(frozen=True, slots=True)
class Staleness:
    """Tells whether the last audits of live adapters still hold.

    Attributes:
        audits: Which audits count.
        now: Returns what is served now.
    """

    audits: LastAudits
    now: Callable[[], Terms]

    def of(self, live: Mapping[str, str]) -> dict[str, dict[Cause, str]]:
        """Return the `reasons` of each name's last audit; a name without an audit that is done is left out.

        Args:
            live: The live version of each name.
        """
        now = self.now()
        return {name: reasons(audit, live[name], now) for name, audit in self.audits.of(live).items()}

    def shown(self, live: Mapping[str, str | None]) -> dict[str, list[str] | None]:
        """Return the same as lists of sentences, with None where nothing is live, or no audit is done."""
        found = self.of({name: version for name, version in live.items() if version is not None})
        return {name: list(found[name].values()) if name in found else None for name in live}


def _engine_parts(engine: EngineInfo) -> dict[Cause, str]:
    drawn, words = engine.sampling, ["unknown"]
    if drawn is not None:
        words = [f"temperature {drawn.temperature:.12g}", f"top-p {drawn.top_p:.12g}"]
        words.append(f"top-k {drawn.top_k or 'off'}")
    return {
        Cause.BASE: engine.base_digest or engine.base,
        Cause.ENGINE: engine.engine,
        Cause.DEVICE: engine.device,
        Cause.DTYPE: engine.dtype,
        Cause.KV_CACHE: engine.kv_cache_dtype,
        Cause.QUANTIZATION: engine.scheme or "unknown",
        Cause.SAMPLING: ", ".join([*words, *engine.penalties]),
    }


def _recorded(audit: LastAudit) -> dict[Cause, str]:
    try:
        parts = _engine_parts(_ENGINE.validate_python(audit.run.get("engine")))
    except ValidationError:
        parts = dict.fromkeys(set(Cause) - {Cause.VERSION, Cause.POLICY}, UNREADABLE)
    return {**parts, Cause.POLICY: _policy_digest(json.dumps(audit.settings.get("policy", {})))}


@lru_cache(maxsize=256)
def _policy_digest(stored: str) -> str:
    """Return the digest of a stored policy with its defaults; few policies judge many audits."""
    try:
        policy = check_policy({**json.loads(stored), "schema_version": 1}, "of an audit")
    except UsageError:
        return UNREADABLE
    return digest(policy.model_dump(mode="json"))


def _shown(words: str) -> str:
    return words[:SHORT] if len(words) == 64 else words
