"""Two reports side by side: what became worse, better, new or gone, and whether they can be compared at all."""

from collections.abc import Iterable, Sequence

from lorecall.audit.evidence.changes import Change, Diff, Row, Side
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.records import PLACES, Group, Verdict
from lorecall.audit.reports.models import SCHEMA_VERSION, Tool
from lorecall.audit.reports.report import Report, ScoredSnippet, Snippet

GROUPS = (Group.CANDIDATES, Group.OWN_CANDIDATES)
BOUNDS = ("edit_distance", "missed", "bits", "false_discovery_rate", "answer_tokens", "system", "template")
Key = tuple[str, ...]


def compare(before: Report, after: Report) -> Diff:
    """Return what changed from `before` to `after`, without the snippets that did not."""
    keys = _keys(before, after)
    obstacles, remarks = _obstacles(before, after, matched=keys is not None), _remarks(before, after)
    rows: list[Row] = []
    if keys is not None:
        first, second = keys
        pairs = [(first.get(key), second.get(key)) for key in dict.fromkeys((*second, *first))]
        rows = [_row(*pair) for pair in pairs]
        obstacles += _unknown(pairs)
        left_out = any(getattr(after.omitted, group) for group in GROUPS)
        lost = sum(row.change is Change.GONE for row in rows)
        if lost and not left_out:
            obstacles.append(f"{lost} snippets of the first report were not asked for in the second")
    rows.sort(
        key=lambda row: (list(Change).index(row.change), PLACES[row.after or row.before or Verdict.CLEAR])
    )
    worse = ExitCode.LEAKS if any(row.leak for row in rows) else ExitCode.CLEAN
    return Diff(
        schema_version=SCHEMA_VERSION,
        tool=Tool.here(),
        before=_side(before),
        after=_side(after),
        obstacles=tuple(obstacles),
        remarks=tuple(remarks),
        counts={change: sum(row.change is change for row in rows) for change in Change},
        exit_code=ExitCode.INCOMPLETE if obstacles else worse,
        snippets=tuple(row for row in rows if row.change is not Change.SAME),
    )


def _side(report: Report) -> Side:
    return Side(
        seal=report.seal.sha256,
        adapter=report.adapter.name,
        version=report.adapter.version,
        rank=report.adapter.rank,
        started=report.started,
        candidates=report.inputs.candidates.name,
        passed=report.gate.passed,
        verdicts=report.summary.verdicts,
    )


def _keys(before: Report, after: Report) -> tuple[dict[Key, Snippet], dict[Key, Snippet]] | None:
    """Return the snippets of both by what tells that two are of one text; None where nothing does.

    Of one file the ids do. Otherwise the keyed hashes of the texts, which are alike only under one salt.
    """
    if before.inputs.candidates.digest == after.inputs.candidates.digest:
        return _by_id(before), _by_id(after)
    if before.text.salt_id == after.text.salt_id:
        return _by_hash(before), _by_hash(after)
    return None


def _asked(report: Report) -> Iterable[Snippet]:
    return (entry for entry in report.snippets if entry.set in GROUPS)


def _by_id(report: Report) -> dict[Key, Snippet]:
    return {(entry.set, entry.id): entry for entry in _asked(report)}


def _by_hash(report: Report) -> dict[Key, Snippet]:
    """Return the snippets by the hashes of their texts; of two alike the gravest."""
    found: dict[Key, Snippet] = {}
    for entry in sorted(_asked(report), key=lambda one: PLACES[one.verdict]):
        history = "" if entry.history is None else entry.history.hash
        found.setdefault((entry.set, history, entry.prefix.hash, entry.target.hash), entry)
    return found


def _row(before: Snippet | None, after: Snippet | None) -> Row:
    shown = [entry.target for entry in (after, before) if entry is not None]
    one = after or before
    if one is None:
        raise ValueError("a snippet of neither report")
    unsure = "" if before is None or after is None or _unsure(before) else _unsure(after)
    return Row(
        id=one.id,
        set=one.set,
        change=Change.WORSE if unsure else _change(before, after),
        before=None if before is None else before.verdict,
        after=None if after is None else after.verdict,
        before_min_p=None if before is None else before.min_p,
        after_min_p=None if after is None else after.min_p,
        target=next((text for text in shown if text.text is None), shown[0]),
        unsure=unsure,
    )


def _change(before: Snippet | None, after: Snippet | None) -> Change:
    if before is None or after is None:
        return Change.NEW if before is None else Change.GONE
    was, now = PLACES[before.verdict], PLACES[after.verdict]
    if was == now:
        return Change.SAME
    return Change.WORSE if now < was else Change.BETTER


def _unsure(entry: Snippet) -> str:
    """Return why a verdict cannot be told, or "": what cannot be told is not shown to be no worse."""
    if entry.verdict is Verdict.ERROR:
        return "it could not be scored"
    return "the engine contradicts itself on it" if entry.alarm else ""


def _obstacles(before: Report, after: Report, *, matched: bool) -> list[str]:
    """Return why the reports cannot be compared."""
    found = []
    if not matched:
        found.append(
            "the candidates are of other files, and the texts were hashed under other salts: set "
            "LORECALL_REPORT_SALT for both audits"
        )
    for what, was, now in (
        ("base", before.engine.base_digest, after.engine.base_digest),
        ("quantization of the base", before.engine.scheme, after.engine.scheme),
        ("ways of asking", before.settings.views, after.settings.views),
        ("scheme of sampling", _scheme(before), _scheme(after)),
        *(
            (
                f"bound {name}",
                *(_bound(report, name, alike=_alike(before, after)) for report in (before, after)),
            )
            for name in BOUNDS
        ),
    ):
        if was != now:
            found.append(f"the {what} is another in the second report")
    return found


def _scheme(report: Report) -> object:
    """Return what is drawn, and how often; who said so is no part of it."""
    scheme = report.settings.sampling
    return None if scheme is None else scheme.model_copy(update={"source": "default"})


def _unknown(pairs: Sequence[tuple[Snippet | None, Snippet | None]]) -> list[str]:
    """Return which snippets of the second report cannot be told to be no worse, where the first says nothing."""
    unsure = sum(was is None and now is not None and bool(_unsure(now)) for was, now in pairs)
    chances = sum(
        _has_chance(was) and isinstance(now, ScoredSnippet) and not _has_chance(now) for was, now in pairs
    )
    found = [f"of {unsure} new snippets nothing can be told"] if unsure else []
    if chances:
        found.append(f"the chance under sampling of {chances} snippets is not known in the second report")
    return found


def _has_chance(entry: Snippet | None) -> bool:
    return isinstance(entry, ScoredSnippet) and (entry.chance is not None or entry.chance_at_most is not None)


def _alike(before: Report, after: Report) -> bool:
    return before.text.salt_id == after.text.salt_id


def _bound(report: Report, name: str, *, alike: bool) -> object:
    """Return a bound; of a secret text its hash, or its length where the salts differ."""
    value = getattr(report.settings, name)
    if value is None or not hasattr(value, "hash"):
        return value
    return value.hash if alike else value.characters


def _remarks(before: Report, after: Report) -> list[str]:
    """Return what else is not alike, which does not keep the reports from being compared."""
    controls = [report.inputs.controls and report.inputs.controls.digest for report in (before, after)]
    checks = {
        "the adapter has another name": before.adapter.name != after.adapter.name,
        "it is the same version of the adapter": before.adapter.version == after.adapter.version,
        "the candidates are of another file": before.inputs.candidates.digest
        != after.inputs.candidates.digest,
        "the controls are others, which decide what is partial": controls[0] != controls[1],
        "the engine is another": before.engine.engine != after.engine.engine,
        "the engine's error, and with it the line, is another": before.epsilon != after.epsilon,
        "the policy is another": before.gate.policy != after.gate.policy,
        "the gate passed the first and fails the second": before.gate.passed and not after.gate.passed,
        "not all candidates were asked for": bool(before.sequential or after.sequential),
        "one report holds the gravest snippets only": any(
            getattr(report.omitted, group) for report in (before, after) for group in GROUPS
        ),
    }
    return [remark for remark, holds in checks.items() if holds]
