"""From training data to ranked candidates and their controls, in files that an audit reads."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from lorecall.adapters.core.errors import CandidateError
from lorecall.audit.discovery.controls import Exchangeability, check_exchangeable, make_controls
from lorecall.audit.discovery.finder import load
from lorecall.audit.discovery.parts import Parts, write_table
from lorecall.audit.discovery.rank import Ranking, rank
from lorecall.audit.discovery.scan import Find, ScanSettings, scan
from lorecall.audit.discovery.written import metadata_of, write_candidates
from lorecall.audit.inputs.candidates import CONTROLS_SEED
from lorecall.audit.scorer import Message, ScoreItem, Scorer
from lorecall.audit.training_data.rows import TrainingData

FORM = 1
CHUNK = 5_000
METADATA, IDENTITY = b"lorecall.discovery", b"lorecall.discovery.identity"
WITHOUT_BASE = "near-duplicates and rarity only: no engine was asked for the base's surprise"
WITH_BASE = "base surprise, times near-duplicates, times rarity"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """How candidates are chosen.

    Attributes:
        scan: What is searched.
        tags: The tags that are searched for; none for all. They must be the finder's.
        top: Candidates that are written; 0 for all.
        occurrences: Places of each distinct span that become candidates: the first ones.
        scored: Candidates that the base is asked for, the first by near-duplicates and rarity.
        batch: Texts in one request to the engine.
        controls: Controls that are made; 0 for none.
        seed: Seed of the random choices.
    """

    scan: ScanSettings = field(default_factory=ScanSettings)
    tags: tuple[str, ...] = ()
    top: int = 10_000
    occurrences: int = 1
    scored: int = 5_000
    batch: int = 64
    controls: int = 300
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found.

    Attributes:
        data_format: The format of the rows.
        digest: sha256 of the data, in hex.
        rows: Rows searched.
        found: Spans in the data.
        spans: Different spans.
        written: Candidates in the file.
        tags: Candidates in the file by their first tag.
        left_out: What was left out or cut, by name.
        ranked_by: What the rank is made of.
        scored: Candidates that the base was asked for and answered.
        controls: Controls in their file.
        exchangeable: Whether the controls look to the base like their candidates; None without an engine.
    """

    data_format: str
    digest: str
    rows: int
    found: int
    spans: int
    written: int
    tags: dict[str, int]
    left_out: dict[str, int]
    ranked_by: str
    scored: int
    controls: int
    exchangeable: Exchangeability | None


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""


def discover(
    data: TrainingData,
    find: Find,
    out: Path,
    settings: DiscoverySettings,
    *,
    scorer: Scorer | None = None,
    progress: Progress = no_progress,
) -> Discovery:
    """Search training data, rank what is found, and write candidates and controls as Parquet.

    A search that was killed goes on where it was when it is started again with the same settings: its parts lie
    in a folder beside `out` until the files are written.

    Args:
        data: The rows; they are read once.
        find: Returns the spans of a text: a `Finder`'s.
        out: The candidates' file; controls go beside it (`controls_path`).
        settings: How candidates are chosen.
        scorer: An engine whose base is asked; without one the rank is of near-duplicates and rarity.
        progress: Called with what is done, how many are, and of how many (0 if that is not known).

    Raises:
        CandidateError: The data are damaged, or hold nothing of these tags.
        UsageError: The extra `discover` is not installed, or another search's parts lie beside `out`.
        ScorerError: The engine could not be reached.
    """
    parts = Parts(out.with_name(f"{out.name}.parts"), _identity(data, settings))
    scan(data, find, parts, settings.scan, lambda found, rows: progress(f"rows ({found} found)", rows, 0))
    if not sum(parts.state.parts):
        parts.delete()
        raise CandidateError(
            f"none of {parts.state.rows} rows holds anything to audit",
            hint="other --roles or --tags",
            param="data",
        )
    ranking = rank(parts, settings.occurrences)
    if scorer is not None:
        ranking = ranking.with_surprise(_ask_base(scorer, parts, ranking, settings, progress))
    written = len(ranking.places) if not settings.top else min(settings.top, len(ranking.places))
    controls, fit = _controls(scorer, parts, ranking, written, settings)
    tags = _tags(parts, ranking.places[:written])
    found = Discovery(
        data_format=str(data.format),
        digest=parts.state.digest,
        rows=parts.state.rows,
        found=int((parts.column("shortened") == 0).sum()),
        spans=ranking.spans,
        written=written,
        tags=dict(tags.most_common()),
        left_out={name: count for name, count in parts.state.counts.items() if count},
        ranked_by=WITHOUT_BASE if scorer is None else WITH_BASE,
        scored=int(np.isfinite(ranking.surprise).sum()),
        controls=len(controls),
        exchangeable=fit,
    )
    made_by = json.dumps(_whole_identity(data, settings, scorer)).encode()
    if controls:
        table = load("pyarrow").Table.from_pylist(controls)
        seed = {CONTROLS_SEED: str(settings.seed).encode(), IDENTITY: made_by}
        write_table(controls_path(out), table.replace_schema_metadata(seed))
    told = {METADATA: json.dumps(asdict(found)).encode(), IDENTITY: made_by}
    write_candidates(out, parts, ranking, written, told)
    parts.delete()
    return found


def discovered(
    data: TrainingData, out: Path, settings: DiscoverySettings, scorer: Scorer | None
) -> Discovery | None:
    """Return what an earlier `discover` of the same found, if its files still lie there; None if not.

    Args:
        data: The rows; the names, sizes and times of their files tell whether they are the same.
        out: The candidates' file.
        settings: How candidates are chosen.
        scorer: The engine whose base is asked.

    Raises:
        UsageError: The extra `discover` is not installed.
        ScorerError: The engine could not be reached.
    """
    made_by = json.dumps(_whole_identity(data, settings, scorer)).encode()
    told = metadata_of(out)
    if told.get(IDENTITY) != made_by:
        return None
    values = json.loads(told[METADATA])
    fit = values.pop("exchangeable")
    found = Discovery(**values, exchangeable=None if fit is None else Exchangeability(**fit))
    if found.controls and metadata_of(controls_path(out)).get(IDENTITY) != made_by:
        return None
    return found


def controls_path(out: Path) -> Path:
    """Return where the controls of a candidates' file lie."""
    return out.with_name(f"{out.stem}.controls.parquet")


def _identity(data: TrainingData, settings: DiscoverySettings) -> dict[str, Any]:
    """Return what a search must have in common with the one whose parts it takes over."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in data.files]
    return {
        "form": FORM,
        "data": files,
        "format": str(data.format),
        "tags": sorted(settings.tags),
        "roles": sorted(settings.scan.roles),
        "shorter": sorted(settings.scan.shorter),
        "longest": settings.scan.longest,
    }


def _whole_identity(data: TrainingData, settings: DiscoverySettings, scorer: Scorer | None) -> dict[str, Any]:
    """Return what two searches must have in common to find and rank the same."""
    engine = None if scorer is None else asdict(replace(scorer.info(), epsilon=None))
    chosen = asdict(replace(settings, batch=0))
    return {"release": version("lorecall"), **_identity(data, settings), "settings": chosen, "engine": engine}


def _ask_base(
    scorer: Scorer, parts: Parts, ranking: Ranking, settings: DiscoverySettings, progress: Progress
) -> Any:
    """Return the surprise of the first candidates; NaN for the others, and for those that cannot be scored."""
    surprise = np.full(len(ranking.places), np.nan)
    total = min(settings.scored, len(surprise))
    for start in range(0, total, CHUNK):
        rows = parts.take(ranking.places[start : min(start + CHUNK, total)])
        for first, values in _surprises(scorer, rows, settings.batch):
            surprise[start + first : start + first + len(values)] = values
            progress("scored by the base", start + first + len(values), total)
    return surprise


def _surprises(
    scorer: Scorer, rows: Sequence[dict[str, Any]], batch: int
) -> Iterator[tuple[int, list[float]]]:
    """Yield, batch by batch, the first's place and the mean -log₂ of the base's probabilities of target tokens.

    A row that cannot be scored gives NaN.
    """
    base = scorer.info().base
    for start in range(0, len(rows), batch):
        scores = scorer.score(base, _items(rows[start : start + batch]))
        yield (
            start,
            [float(-np.mean(one.logprob) / np.log(2)) if one.logprob else float("nan") for one in scores],
        )


def _items(rows: Sequence[dict[str, Any]]) -> list[ScoreItem]:
    return [
        ScoreItem(
            row["id"],
            row["prefix"],
            row["target"],
            messages=tuple(Message(one["role"], one["content"]) for one in row["messages"]),
        )
        for row in rows
    ]


def _controls(
    scorer: Scorer | None, parts: Parts, ranking: Ranking, written: int, settings: DiscoverySettings
) -> tuple[list[dict[str, Any]], Exchangeability | None]:
    """Return controls of a random sample of the written candidates, and whether the base tells them apart."""
    if not settings.controls:
        return [], None
    rng = np.random.default_rng(settings.seed)
    drawn = np.sort(rng.permutation(written)[: settings.controls])
    models = parts.take(ranking.places[drawn])
    known = np.unique(parts.column("key"))
    controls = make_controls(models, known, settings.controls, settings.seed)
    if scorer is None:
        return controls, None
    own, theirs = (
        [value for _, values in _surprises(scorer, rows, settings.batch) for value in values]
        for rows in (models, controls)
    )
    return controls, check_exchangeable(own, theirs)


def _tags(parts: Parts, places: Any) -> Counter[str]:
    """Count the first tags of the candidates at these places."""
    wanted = np.zeros(sum(parts.state.parts), dtype=bool)
    wanted[places] = True
    return Counter(row["tags"][0] for keep, row in zip(wanted, parts.rows(("tags",)), strict=True) if keep)
