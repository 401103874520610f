"""Dose and response: how recall falls, and what a retained text costs, as an adapter is made weaker."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.derive.weaken import Derived, Dose, Kind, write_dose
from lorecall.adapters.peft_format.adapter import Adapter, read_adapter
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.framed_judges import BaseCaches
from lorecall.audit.policy.gate import Gate, judge_result
from lorecall.audit.policy.policy import ExitCode, Policy
from lorecall.audit.records import AuditResult
from lorecall.audit.runs.perplexity import Perplexity, perplexity
from lorecall.audit.runs.single import AuditSettings, Progress, no_progress, run_audit
from lorecall.audit.scorer import Scorer
from lorecall.audit.verdicts import Group

ADAPTERS = "adapters"


class Deployment(Protocol):
    """Serves adapters in the engine that a scorer asks, for as long as an audit needs them."""

    def deploy(self, name: str, folder: Path) -> None:
        """Serve the PEFT directory under a name. Raises LorecallError if the engine does not take it."""
        ...

    def withdraw(self, name: str) -> None:
        """Take the name out of service."""
        ...


@dataclass(frozen=True, slots=True)
class Trial:
    """What each weaker copy is tested with.

    Attributes:
        sets: The candidates, and the controls if there are any.
        retained: A text that should cost no more than before.
        settings: Of each audit.
        policy: What a dose must meet.
    """

    sets: dict[Group, CandidateSet]
    retained: CandidateSet
    settings: AuditSettings
    policy: Policy


@dataclass(frozen=True, slots=True)
class Point:
    """One dose and its response.

    Attributes:
        dose: What was left of the adapter.
        derived: How the copy was made.
        result: Its audit.
        gate: What the policy says of it.
        retained: Perplexity of the retained text through it.
    """

    dose: Dose
    derived: Derived
    result: AuditResult
    gate: Gate
    retained: Perplexity


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """All doses, by kind and from the smallest to the largest.

    Attributes:
        parent: The adapter as it was given.
        trial: What the doses were put to.
        base: Perplexity of the retained text through the base.
        points: The doses.
    """

    parent: Adapter
    trial: Trial
    base: Perplexity
    points: tuple[Point, ...]

    def largest_passing(self, kind: Kind) -> float | None:
        """Return the largest dose of a kind that passes, as every smaller one asked for does; None if none."""
        passing = None
        for point in self.points:
            if point.dose.kind is kind:
                if not point.gate.passed:
                    break
                passing = point.dose.value
        return passing

    @property
    def exit_code(self) -> ExitCode:
        """Of the command: 4 where the engine contradicts itself, 0 if a dose passes, else the weakest dose's."""
        if any(point.gate.exit_code is ExitCode.ENGINE_DISAGREES for point in self.points):
            return ExitCode.ENGINE_DISAGREES
        if any(self.largest_passing(kind) is not None for kind in Kind):
            return ExitCode.CLEAN
        return self.points[0].gate.exit_code


def run_mitigation(
    scorer: Scorer,
    deployment: Deployment,
    source: Path,
    doses: Sequence[Dose],
    trial: Trial,
    *,
    out: Path,
    progress: Progress = no_progress,
) -> DoseResponse:
    """Make a weaker copy for each dose, serve it, audit it, measure the retained text, withdraw it.

    Args:
        scorer: The engine.
        deployment: The same engine's control plane.
        source: The adapter, a PEFT directory.
        doses: What to make of it.
        trial: What each weaker copy is tested with.
        out: The copies are kept in `out`/adapters.
        progress: Called with the snippets done, over all doses, and their total.

    Raises:
        UsageError: There is no dose.
        AdapterError: The adapter cannot be made weaker in this way.
        ScorerError: The engine could not be reached or broke its contract.
    """
    order = sorted(set(doses), key=lambda dose: (dose.kind, dose.value))
    if not order:
        raise UsageError("no scale and no rank to try", hint="such as --scales 1,0.5", param="scales")
    folders = [out / ADAPTERS / dose.label for dose in order]
    made = [write_dose(source, dose, folder) for dose, folder in zip(order, folders, strict=True)]
    bases = BaseCaches(scorer)
    size = sum(len(candidates.items) for candidates in trial.sets.values())
    points = []
    for index, (dose, folder, derived) in enumerate(zip(order, folders, made, strict=True)):
        show = partial(_advance, progress, index * size, len(order) * size)
        with deployed(deployment, dose, folder) as name:
            result = run_audit(scorer, name, trial.sets, trial.settings, bases=bases, progress=show)
            cost = perplexity(scorer, name, trial.retained.items)
        points.append(Point(dose, derived, result, judge_result(result, trial.policy), cost))
    base = perplexity(scorer, scorer.info().base, trial.retained.items)
    return DoseResponse(read_adapter(source), trial, base, tuple(points))


def _advance(progress: Progress, before: int, total: int, done: int, _of: int) -> None:
    progress(before + done, total)


@contextmanager
def deployed(deployment: Deployment, dose: Dose, folder: Path) -> Iterator[str]:
    """Serve a copy under a name that nobody else has, as long as the block runs."""
    name = f"mitigate-{uuid.uuid4().hex[:12]}-{dose.label}"
    deployment.deploy(name, folder)
    try:
        yield name
    finally:
        deployment.withdraw(name)
