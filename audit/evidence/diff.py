"""Two reports side by side: what became worse, better, new or gone, and whether they can be compared at all."""

from collections.abc import Sequence

from lorecall.audit.evidence.changes import Change, Diff, Row, Side
from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.reports.models import SCHEMA_VERSION, Tool
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.snippets import ScoredSnippet, Snippet
from lorecall.audit.verdicts import PLACES, Group, Verdict

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
        obstacles += [*_unknown(pairs), *_other_texts(pairs, alike=_alike(before, after))]
        left_out = any(getattr(after.omitted, group) for group in GROUPS)
        lost = sum(row.change is Change.GONE and row.set is Group.CANDIDATES for row in rows)
        if lost and not left_out:
            obstacles.append(f"{lost} snippets of the first report were not asked for in the second")
    worse = any(row.leak for row in rows)
    obstacles += [] if worse else _undecoded(after)
    rows.sort(
        key=lambda row: (list(Change).index(row.change), PLACES[row.after or row.before or Verdict.CLEAR])
    )
    return Diff(
        schema_version=SCHEMA_VERSION,
        tool=Tool.here(),
        before=_side(before),
        after=_side(after),
        obstacles=tuple(obstacles),
        remarks=tuple(remarks),
        counts={change: sum(row.change is change for row in rows) for change in Change},
        exit_code=ExitCode.INCOMPLETE if obstacles else ExitCode.LEAKS if worse else ExitCode.CLEAN,
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

    Of one file the ids do. Otherwise the keyed hashes of the texts, which are alike only under one salt; of two
    snippets of one text the gravest counts. Where nothing tells it of what an uploader sent, all of it is new.
    """
    found: tuple[dict[Key, Snippet], dict[Key, Snippet]] = ({}, {})
    for group in GROUPS:
        sources = [getattr(report.inputs, group) for report in (before, after)]
        one_file = len({source and source.digest for source in sources}) == 1
        if group is Group.CANDIDATES and not one_file and not _alike(before, after):
            return None
        for side, (report, keyed) in enumerate(zip((before, after), found, strict=True)):
            asked = (entry for entry in report.snippets if entry.set is group)
            for entry in sorted(asked, key=lambda one: PLACES[one.verdict]):
                by_text = _texts(entry) if _alike(before, after) else (entry.id, str(side))
                keyed.setdefault((group, *((entry.id,) if one_file else by_text)), entry)
    return found


def _texts(entry: Snippet) -> Key:
    """Return the keyed hashes of a snippet's texts."""
    history = "" if entry.history is None else entry.history.hash
    return history, entry.prefix.hash, entry.target.hash


def _other_texts(pairs: Sequence[tuple[Snippet | None, Snippet | None]], *, alike: bool) -> list[str]:
    """Return whether snippets of one id are of other texts, as of one file that was cut in another way."""

    def sizes(entry: Snippet) -> tuple[object, ...]:
        texts = (entry.history, entry.prefix, entry.target)
        return tuple(text and text.characters for text in texts)

    tell = _texts if alike else sizes
    others = sum(was is not None and now is not None and tell(was) != tell(now) for was, now in pairs)
    return [f"{others} snippets of one id have other texts in the second report"] if others else []


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


def _undecoded(after: Report) -> list[str]:
    """Return why it is open whether what was not decoded leaks: of the second report's check something did."""
    said = after.summary.undecoded
    if said is None or not said.left_out or not said.found:
        return []
    given = f"decoding gave {said.found} of {said.checked} snippets whose scores ruled that out"
    return [
        f"{given}, so up to {said.at_most} of {said.left_out} that the second report did not decode may leak"
    ]


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


def _computes(report: Report) -> tuple[str, ...]:
    """Return what an engine computes on, and in; "" where an older release did not say."""
    return report.engine.device, report.engine.dtype, report.engine.kv_cache_dtype


def _own(report: Report) -> str:
    return "" if report.inputs.own_candidates is None else report.inputs.own_candidates.digest


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
        "whether the system message and the template are the same is not known: the salts differ": not _alike(
            before, after
        )
        and any(text is not None for text in (before.settings.system, before.settings.template)),
        "the uploader's own candidates are others": _own(before) != _own(after),
        "the adapter has another name": before.adapter.name != after.adapter.name,
        "it is the same version of the adapter": before.adapter.version == after.adapter.version,
        "the candidates are of another file": before.inputs.candidates.digest
        != after.inputs.candidates.digest,
        "the controls are others, which decide what is partial": controls[0] != controls[1],
        "the engine is another": before.engine.engine != after.engine.engine,
        "the engine's device or dtypes are others": any(
            was and now and was != now for was, now in zip(_computes(before), _computes(after), strict=True)
        ),
        "the adapter's chat template is another": before.adapter.chat_template != after.adapter.chat_template,
        "the engine's error, and with it the line, is another": before.epsilon != after.epsilon,
        "the policy is another": before.gate.policy != after.gate.policy,
        "the gate passed the first and fails the second": before.gate.passed and not after.gate.passed,
        "not all candidates were asked for": bool(before.sequential or after.sequential),
        "not all candidates were decoded: the others are told by their scores alone": any(
            report.summary.undecoded is not None and report.summary.undecoded.left_out
            for report in (before, after)
        ),
        "one report holds the gravest snippets only": any(
            getattr(report.omitted, group) for report in (before, after) for group in GROUPS
        ),
    }
    return [remark for remark, holds in checks.items() if holds]
