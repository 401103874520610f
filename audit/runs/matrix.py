"""Who recites whose data: N adapters against M candidate sets, in batches that mix the adapters."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.judging.framed_judges import RAW, BaseCaches
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.records import AuditResult
from lorecall.audit.runs.single import AuditSettings, Progress, no_progress, run_audit
from lorecall.audit.scorer import Scorer
from lorecall.audit.scorers.batches import batches
from lorecall.audit.verdicts import Group, Verdict


@dataclass(frozen=True, slots=True)
class Cell:
    """What one adapter recites of one set.

    Attributes:
        adapter: The adapter's name.
        version: Its version.
        candidates: The set's file name.
        own: Whether the adapter may know the set: it is its own.
        recited: Certified and recalled snippets,
        of: of so many that can be blamed on the adapter.
        low: Lower end of the rate's interval.
        high: Its upper end.
        extractable: Those that sampling gives, and greedy decoding does not.
        near_verbatim: Those that decoding gives up to small edits; without controls nothing is `partial`.
        errors: Snippets that could not be scored.
        unknown_chances: Snippets that may be extractable: the scorer cannot tell.
        alarms: Snippets on which the engine contradicts itself.
    """

    adapter: str
    version: str
    candidates: str
    own: bool
    recited: int
    of: int
    low: float
    high: float
    extractable: int
    near_verbatim: int
    errors: int
    unknown_chances: int
    alarms: int

    @property
    def found(self) -> int:
        """How many snippets an answer gives, greedy or sampled, word for word or nearly."""
        return self.recited + self.extractable + self.near_verbatim

    @property
    def untested(self) -> bool:
        """Whether it is not known of all snippets: what sampling gives of an adapter's own set is no matter."""
        return bool(self.errors or not self.of or (self.unknown_chances and not self.own))


@dataclass(frozen=True, slots=True)
class Matrix:
    """All cells, adapter by adapter, and what they were made with."""

    cells: tuple[Cell, ...]
    first: AuditResult

    @property
    def foreign(self) -> tuple[Cell, ...]:
        """The cells off the diagonal in which something is recited, or nearly."""
        return tuple(cell for cell in self.cells if cell.found and not cell.own)

    @property
    def exit_code(self) -> ExitCode:
        """Of the command: 4 if the engine contradicts itself, 1 for a finding off the diagonal.

        3 where a snippet could not be scored, where it is not known whether sampling gives one of another's, or
        where nothing of a set could be blamed on an adapter.
        """
        if any(cell.alarms for cell in self.cells):
            return ExitCode.ENGINE_DISAGREES
        if self.foreign:
            return ExitCode.LEAKS
        untested = any(cell.untested for cell in self.cells)
        return ExitCode.INCOMPLETE if untested else ExitCode.CLEAN


def run_matrix(
    scorer: Scorer,
    adapters: Sequence[str],
    sets: Sequence[CandidateSet],
    own: set[tuple[str, str]],
    settings: AuditSettings,
    *,
    parallel: int = 4,
    progress: Progress = no_progress,
) -> Matrix:
    """Audit every adapter on every set, several at a time, so that one batch serves several adapters.

    Args:
        scorer: The engine; several threads call it at once.
        adapters: Names of served adapters.
        sets: The candidate sets, with distinct names.
        own: (adapter, set) pairs in which recall is expected.
        settings: Of each audit.
        parallel: Audits at a time.
        progress: Called with the snippets done, over all cells, and their total.

    Raises:
        UsageError: Two sets have one name.
        AdapterNotFoundError: An adapter is not there; known before anything is scored.
    """
    names = [candidates.name for candidates in sets]
    if len(set(names)) < len(names):
        raise UsageError(f"two candidate sets have one name: {', '.join(names)}", hint="rename a file")
    for adapter in adapters:
        scorer.adapter(adapter)
    bases = BaseCaches(scorer)
    for candidates in sets:  # before the threads start, so that the base is asked once
        for chunk in batches(candidates.items, settings.chunk):
            bases.framed(RAW, settings.extraction.on(scorer.info()).sampling).score(chunk)
    pairs = [(adapter, candidates) for adapter in adapters for candidates in sets]
    counter = _Counter(sum(len(candidates.items) for _, candidates in pairs), progress)

    def audit(pair: tuple[str, CandidateSet]) -> AuditResult:
        adapter, candidates = pair
        return run_audit(
            scorer, adapter, {Group.CANDIDATES: candidates}, settings, bases=bases, progress=counter.part()
        )

    with ThreadPoolExecutor(parallel) as pool:
        results = list(pool.map(audit, pairs))
    cells = [_cell(result, candidates, own) for result, (_, candidates) in zip(results, pairs, strict=True)]
    return Matrix(tuple(cells), results[0])


class _Counter:
    """Adds up the progress of audits in several threads."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress, self._done, self._lock = total, progress, 0, Lock()

    def part(self) -> Progress:
        seen = 0

        def advance(done: int, _total: int) -> None:
            nonlocal seen
            with self._lock:
                self._done += done - seen
                seen = done
                self._progress(self._done, self._total)

        return advance


def _cell(result: AuditResult, candidates: CandidateSet, own: set[tuple[str, str]]) -> Cell:
    summary = result.summaries[Group.CANDIDATES]
    return Cell(
        adapter=result.adapter.name,
        version=result.adapter.version,
        candidates=candidates.name,
        own=(result.adapter.name, candidates.name) in own,
        recited=summary.recited.hits,
        of=summary.recited.of,
        low=summary.recited.low,
        high=summary.recited.high,
        extractable=summary.verdicts[Verdict.EXTRACTABLE],
        near_verbatim=summary.verdicts[Verdict.NEAR_VERBATIM],
        errors=summary.verdicts[Verdict.ERROR],
        unknown_chances=summary.unknown_chances,
        alarms=summary.alarms,
    )
