"""What is extractable by sampling: how many answers, at which chance, drawn by which scheme."""

from dataclasses import dataclass, field
from typing import Literal

from lorecall.audit.scorer import EngineInfo, Sampling

SamplingSource = Literal["option", "engine", "default"]


@dataclass(frozen=True, slots=True)
class Extraction:
    """What is extractable by sampling: a text that one of `samples` answers gives with probability `chance`.

    Attributes:
        samples: Answers that somebody may ask for.
        chance: The probability, in (0, 1), from which on their giving it is a finding.
        sampling: The scheme that the answers are drawn by.
        source: Where that is from: the option or policy, the engine's own defaults, or vLLM's.
        left_out: Names of the engine's other sampling parameters, which the probabilities leave out.
    """

    samples: int = 100
    chance: float = 0.5
    sampling: Sampling = field(default_factory=Sampling)
    source: SamplingSource = "default"
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingWish:
    """An `Extraction` as it is asked for; None leaves a part of the scheme to the engine."""

    samples: int = 100
    chance: float = 0.5
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def on(self, engine: EngineInfo) -> Extraction:
        """Return it with what the engine's own requests have where nothing else was asked for."""
        default = engine.sampling or Sampling()
        sampling = Sampling(
            default.temperature if self.temperature is None else self.temperature,
            default.top_p if self.top_p is None else self.top_p,
            default.top_k if self.top_k is None else self.top_k,
        )
        source: SamplingSource = "default" if engine.sampling is None else "engine"
        if any(part is not None for part in (self.temperature, self.top_p, self.top_k)):
            source = "option"
        greedy = sampling.temperature == 0.0
        return Extraction(
            self.samples, self.chance, Sampling(0.0) if greedy else sampling, source, engine.penalties
        )

    def is_met_by(self, found: Extraction) -> bool:
        """Return whether an audit looked for what is asked for; what is left to the engine is met by any."""
        if (found.samples, found.chance) != (self.samples, self.chance):
            return False
        if found.sampling.temperature == 0.0:  # greedy decoding, whatever else is said
            return self.temperature in (None, 0.0)
        names = ("temperature", "top_p", "top_k")
        return all(getattr(self, name) in (None, getattr(found.sampling, name)) for name in names)
