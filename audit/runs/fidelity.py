"""Is a served adapter the one in a folder, applied as PEFT applies it? Three checks of log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lorecall.adapters.bases.served_model import rounds_activations
from lorecall.adapters.core.errors import AdapterError, ScorerError
from lorecall.audit.scorer import ItemScore, ScoreItem, Scorer

Logprobs = np.ndarray[tuple[int], np.dtype[np.float64]]
_FLOOR = 1e-4
_ROUNDED = 0.05  # measured between the two on INT8 bases: docs/models.md
_NEAR = 0.5


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What was measured; all differences are of log-probabilities of the same tokens, in nats.

    Attributes:
        tokens: How many tokens were compared.
        noise: The largest difference between the server and the reference without an adapter, at least 1e-4;
            0.05 where activations are rounded, one digit of which an adapter moves in either.
        change: The largest change that the adapter makes in the reference.
        served_change: The largest change that it makes on the server.
        distance: The largest difference between the server and the reference with the adapter.
        mismatch: The root of the squared differences between the two changes, as a share of the reference's.
        same_version: Whether the server's version is the folder's.
    """

    tokens: int
    noise: float
    change: float
    served_change: float
    distance: float
    mismatch: float
    same_version: bool

    def problems(self) -> tuple[str, ...]:
        """Return what is wrong, in sentences; () if the served adapter is the folder's, as PEFT applies it."""
        found = []
        if not self.same_version:
            found.append("the server has another version under this name than the folder holds")
        if self.change <= 2 * self.noise:
            found.append(f"the adapter changes at most {self.change:.1e}, too little over the noise to tell")
        elif self.served_change <= self.noise:
            found.append(
                f"the adapter is not applied: it changes at most {self.served_change:.1e} on the server"
            )
        elif self.mismatch > _NEAR:
            found.append(f"another adapter is applied: the change differs by {self.mismatch:.0%} of its size")
        if self.distance > 2 * self.noise:
            found.append(f"a token differs by {self.distance:.1e}, over twice the noise of {self.noise:.1e}")
        return tuple(found)


def measure_fidelity(served: Scorer, reference: Scorer, name: str, items: Sequence[ScoreItem]) -> Fidelity:
    """Score texts through a server and a reference on the same base, with and without an adapter.

    Args:
        served: The server.
        reference: Transformers and PEFT on the same prepared base, with the adapter's folder under the same name.
        name: The adapter.
        items: The texts.

    Raises:
        AdapterError: The engine's scores leave a part of the adapter out, or the two have different bases.
        ScorerError: A text could not be scored.
    """
    theirs, ours = served.info().base_digest, reference.info().base_digest
    if theirs and theirs != ours:
        raise AdapterError(
            f"the server's base has the digest {theirs[:16]}, this one {ours[:16]}",
            hint="name the directory of the base that is served",
            param="base",
        )
    version, folder = served.adapter(name), reference.adapter(name)
    if version.refusal:
        raise AdapterError(f"{name} cannot be verified by prompt scores: {version.refusal}", param="name")
    base_served = _logprobs(served, served.info().base, items)
    base_reference = _logprobs(reference, reference.info().base, items)
    on_server, on_reference = _logprobs(served, name, items), _logprobs(reference, name, items)
    if not len(base_served) == len(base_reference) == len(on_server) == len(on_reference):
        raise ScorerError("the server and the reference have different tokens for the same texts")
    change, served_change = on_reference - base_reference, on_server - base_served
    size = float(np.linalg.norm(change))
    return Fidelity(
        tokens=len(change),
        noise=max(
            _ROUNDED if rounds_activations(reference.info().scheme) else _FLOOR,
            float(np.abs(base_served - base_reference).max()),
        ),
        change=float(np.abs(change).max()),
        served_change=float(np.abs(served_change).max()),
        distance=float(np.abs(on_server - on_reference).max()),
        mismatch=float(np.linalg.norm(served_change - change)) / size if size else 0.0,
        same_version=version.version == folder.version,
    )


def _logprobs(scorer: Scorer, model: str, items: Sequence[ScoreItem]) -> Logprobs:
    found: list[ItemScore] = scorer.score(model, items)
    wrong = next((one for one in found if one.error), None)
    if wrong is not None:
        raise ScorerError(f"text {wrong.id} could not be scored: {wrong.error}")
    return np.array([value for one in found for value in one.logprob])
