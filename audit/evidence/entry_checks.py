"""Whether one snippet's entry in a report agrees with itself: its numbers, its flags and its verdict.

Where texts are not shown, probabilities have two digits. Then a number that depends on them is held against all
that they leave possible.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from lorecall.audit.coarse import PLACES
from lorecall.audit.judging.decoding import LEAST_RECALLED, Check
from lorecall.audit.judging.peer_measures import exact_memorization, extraction_strength
from lorecall.audit.judging.rule import HALF, NEAR_FROM, longest_run, samples_for_extraction
from lorecall.audit.records import Flag, Group, Verdict
from lorecall.audit.reports.report import RedactedText, Report, ScoredSnippet, Snippet, Token

STEP = 10.0**-PLACES
SOFTER = (Verdict.NEAR_VERBATIM, Verdict.PARTIAL, Verdict.CLEAR)
OPEN = (*SOFTER, Verdict.BASE_KNOWN)
UNDECODED = (Verdict.PARTIAL, Verdict.CLEAR, Verdict.BASE_KNOWN)
NATS_SLACK = STEP / 2 + 1e-3
BITS_SLACK = 0.5 + 1e-2
LOG10_SLACK = 0.05 + 1e-3
Range = tuple[float, float]


def check_entry(report: Report, entry: Snippet) -> Iterator[str]:
    """Yield what contradicts itself in an entry, in words that hold no text."""
    yield from _texts(report, entry)
    yield from _views(report, entry)
    if not isinstance(entry, ScoredSnippet):
        if entry.tokens or entry.min_p is not None or entry.decoded_equal is not None or not entry.error:
            yield "an error with scores, or without a reason"
        return
    if not entry.tokens:
        yield "a verdict without tokens"
        return
    if entry.error:
        yield f"{entry.verdict}, with the reason of an error"
    yield from _numbers(report, entry)
    yield from _losses(report, entry)
    yield from _flags(report, entry)
    yield from _verdict(report, entry)
    yield from _sampled(report, entry)


def _texts(report: Report, entry: Snippet) -> Iterator[str]:
    shown = report.text.shown
    texts = {name: getattr(entry, name) for name in ("prefix", "target", "history")}
    texts |= {f"settings/{name}": getattr(report.settings, name) for name in ("system", "template")}
    for name, text in texts.items():
        if text is not None and not _as_said(text, shown=shown):
            yield f"{name} is not shown as the report says"
    if any((token.id is not None) != shown for token in entry.tokens):
        yield "its tokens are not shown as the report says"


def _as_said(text: RedactedText, *, shown: bool) -> bool:
    """Return whether a text is shown, and whole, or not shown at all."""
    return text.text is None if not shown else text.text is not None and len(text.text) == text.characters


def _views(report: Report, entry: Snippet) -> Iterator[str]:
    names = [view.view for view in entry.views]
    if not set(names) <= set(report.settings.views) or len(set(names)) < len(names):
        yield "it was asked for in ways that the settings do not name"
        return
    counted = next((view for view in entry.views if view.view == entry.view), None)
    if counted is None:
        yield "its verdict is of a way that it was not asked for"
        return
    demoted = (counted.verdict, entry.verdict) == (Verdict.PARTIAL, Verdict.CLEAR)
    if counted.min_p != entry.min_p or (counted.verdict is not entry.verdict and not demoted):
        yield "its verdict is not that of the way that counts"


def _argmax(entry: ScoredSnippet) -> list[bool] | None:
    """Return which target tokens are the one argmax; None where a tie hides it."""
    return None if Flag.TIE in entry.flags else [token.rank == 1 for token in entry.tokens]


def _numbers(report: Report, entry: ScoredSnippet) -> Iterator[str]:
    p = [token.p for token in entry.tokens]
    if entry.min_p != min(p):
        yield "min_p is not the least p of its tokens"
    elif entry.min_p_at >= len(p) or p[entry.min_p_at] != entry.min_p:
        yield "min_p_at is not the place of the least p"
    expected: dict[str, object] = {
        "length": len(p),
        "over_half": sum(value > HALF for value in p),
        "near": tuple(i for i, value in enumerate(p) if NEAR_FROM <= value <= HALF),
        "certified_by_p": len(entry.locked) == len(p),
    }
    flags = _argmax(entry)
    if flags is not None:
        run, run_at = longest_run(flags)
        expected |= {
            "rank1": all(flags),
            "exact_memorization": exact_memorization(flags),
            "extraction_strength": extraction_strength(flags),
            "first_failing": flags.index(False) if False in flags else None,
            "longest_run": run,
            "longest_run_at": run_at,
        }
    yield from (
        f"{name} is not what its tokens give" for name, one in expected.items() if getattr(entry, name) != one
    )
    if any(token.p > HALF and token.rank != 1 for token in entry.tokens) and not entry.alarm:
        yield "a token over one half that is not the first, and no alarm"
    if not _lock(report, entry):
        yield "locked is not what its tokens give"


def _lock(report: Report, entry: ScoredSnippet) -> bool:
    places = set(entry.locked)
    for at, token in enumerate(entry.tokens):
        low, high = _range(token.p, report)
        may, must = high > report.threshold, low > report.threshold
        if token.rank != 1 or not may:
            if at in places:
                return False
        elif must and at not in places:
            return False
    return len(places) == len(entry.locked) and all(at < len(entry.tokens) for at in places)


def _range(p: float, report: Report) -> Range:
    """Return the least and the largest probability that is written as p."""
    if report.text.shown:
        return p, p
    return (max(HALF, p - STEP), p) if p > HALF else (p, min(HALF, p + STEP))


def _nats(p: Sequence[float], report: Report) -> Range:
    """Return the least and the largest loss, in nats, of tokens with the probabilities written as p."""

    def loss(value: float) -> float:
        return -math.log(value) if value > 0.0 else math.inf

    ranges = [_range(value, report) for value in p]
    return math.fsum(loss(high) for _, high in ranges if high > 0.0), math.fsum(
        loss(low) for low, _ in ranges
    )


def _within(value: float, bounds: Range, slack: float) -> bool:
    return bounds[0] - slack <= value <= bounds[1] + slack


def _losses(report: Report, entry: ScoredSnippet) -> Iterator[str]:
    count, ln10, ln2 = len(entry.tokens), math.log(10.0), math.log(2.0)
    low, high = _nats([token.p for token in entry.tokens], report)
    if not _within(entry.loss, (low / count, high / count), NATS_SLACK):
        yield "loss is not what its tokens give"
    spread = NATS_SLACK * count / ln10
    log_pz = -entry.loss * count / ln10
    if entry.log10_pz is not None and abs(entry.log10_pz - log_pz) > spread + LOG10_SLACK:
        yield "log10_pz is not what its loss gives"
    ends = [samples_for_extraction(min(0.0, (log_pz + side) * ln10)) for side in (spread, -spread)]
    if entry.log10_n50 is None or not _within(entry.log10_n50, (ends[0], ends[1]), LOG10_SLACK):
        yield "log10_n50 is not what its loss gives"
    base = [token.base_p for token in entry.tokens if token.base_p is not None]
    if base and entry.base_min_p > min(base):
        yield "base_min_p is over a base_p of its tokens"
    if len(base) == count:
        low, high = _nats(base, report)
        sums: tuple[tuple[str, float, Range, float], ...] = (
            ("base_loss", entry.base_loss, (low / count, high / count), NATS_SLACK),
            ("base_bits", entry.base_bits, (low / ln2, high / ln2), BITS_SLACK),
        )
        yield from (
            f"{name} is not what its tokens give"
            for name, one, found, slack in sums
            if not _within(one, found, slack)
        )
        if entry.base_min_p != min(base):
            yield "base_min_p is not the least base_p of its tokens"
        if abs(entry.delta_loss - (entry.base_loss - entry.loss)) > 3 * NATS_SLACK:
            yield "delta_loss is not the difference of the losses"
    gained = entry.base_bits * ln2 / count - entry.loss
    if abs(entry.delta_loss - gained) > 2 * NATS_SLACK + BITS_SLACK * ln2 / count:
        yield "delta_loss is not what its base_bits give"
    if (
        entry.run_bits > entry.base_bits + 2 * BITS_SLACK
        or entry.run_bits > _longest(entry, report) + BITS_SLACK
    ):
        yield "run_bits is more than its tokens give"


def _longest(entry: ScoredSnippet, report: Report) -> float:
    """Return the most bits under the base that one recalled stretch can have."""
    best = run = 0.0
    for token in entry.tokens:
        recalled, low = token.rank == 1, _low_base(token, report)
        run = run + low if recalled else 0.0
        best = max(best, run)
    return best


def _low_base(token: Token, report: Report) -> float:
    if token.base_p is None:
        return 0.0
    low = _range(token.base_p, report)[0]
    return -math.log2(low) if low > 0.0 else math.inf


def _flags(report: Report, entry: ScoredSnippet) -> Iterator[str]:
    if len(set(entry.flags)) < len(entry.flags):
        yield "a flag twice"
    if (Flag.BORDERLINE in entry.flags) != (entry.over_half == entry.length and not entry.certified_by_p):
        yield "the flag borderline is not what its tokens give"
    bits, wanted = entry.base_bits, report.settings.bits
    if abs(bits - wanted) > BITS_SLACK and (Flag.SHORT in entry.flags) != (bits < wanted):
        yield "the flag short is not what its base_bits give"
    if {Flag.ELSEWHERE, Flag.OTHER_FORM} & set(entry.flags) and entry.verdict is not Verdict.RECALLED:
        yield "a remark on where it was recited, and it was not"


def _verdict(report: Report, entry: ScoredSnippet) -> Iterator[str]:
    """Yield what of its evidence contradicts the verdict; other evidence is not in a report."""
    settings, given = (
        report.settings,
        entry.decoded_equal or {Flag.ELSEWHERE, Flag.OTHER_FORM} & set(entry.flags),
    )
    sure = entry.certified_by_p and entry.decoded_ids_equal
    finding = entry.q_value is not None and entry.q_value <= settings.false_discovery_rate
    stretch = entry.run_bits - settings.bits
    near = entry.edit_distance is not None and entry.edit_distance <= settings.edit_distance
    checks: dict[Verdict, Callable[[], str]] = {
        Verdict.CERTIFIED: lambda: "" if sure else "certified, with a token under the line or another decode",
        Verdict.RECALLED: lambda: (
            "recalled, with another decode"
            if not given
            else "recalled, where all is certified"
            if sure
            else ""
        ),
        Verdict.NEAR_VERBATIM: lambda: "" if near and not given else "near-verbatim, with another decode",
        Verdict.PARTIAL: lambda: (
            "partial, without a stretch that is recalled" if stretch < -BITS_SLACK and not entry.alarm else ""
        ),
        Verdict.CLEAR: lambda: (
            "clear, although it beats the controls" if stretch > BITS_SLACK and finding else ""
        ),
    }
    said = checks.get(entry.verdict, lambda: "")()
    if entry.verdict in (Verdict.PARTIAL, Verdict.CLEAR) and (given or sure):
        said = f"{entry.verdict}, although it was recited"
    if said:
        yield said
    if entry.decoded_ids_equal and not entry.decoded_equal:
        yield "decoding gave its tokens, and not its text"
    yield from _undecoded(report, entry)
    if given and entry.edit_distance != 0.0:
        yield "recited, with an edit distance"
    if entry.certified_by_p and entry.decoded_ids_equal is False and not entry.alarm:
        yield "certified by its tokens, decoded otherwise, and no alarm"
    if entry.base_recites and entry.verdict is not Verdict.BASE_KNOWN:
        yield f"the base recites it, and it is {entry.verdict}"
    if entry.q_value is not None and entry.set.of_controls:
        yield f"a false discovery rate for one of the {Group.CONTROLS}"


def _undecoded(report: Report, entry: ScoredSnippet) -> Iterator[str]:
    """Yield why an entry should have been decoded, or does not say that it was not."""
    marks, share = {Flag.NOT_DECODED, Flag.CHECKED} & set(entry.flags), report.settings.checked_share
    if marks and (share is None or entry.set is not Group.CANDIDATES):
        yield "its flags say of its decode what the settings rule out"
    elif marks and share is not None:
        drawn = {Flag.CHECKED if Check(share, report.settings.seed).draws(entry.id) else Flag.NOT_DECODED}
        if marks != drawn:
            yield "whether it is decoded as a check is not what its id and the seed draw"
    answers = (entry.decoded_equal, entry.decoded_ids_equal, entry.edit_distance)
    if any(one is None for one in answers):
        if not all(one is None for one in answers) or Flag.NOT_DECODED not in marks:
            yield "it was not decoded, and does not say so"
        if entry.verdict not in UNDECODED or _recalled(report, entry) >= LEAST_RECALLED:
            yield "its scores do not rule out that decoding matters, and it was not decoded"


def _recalled(report: Report, entry: ScoredSnippet) -> float:
    """Return the least share of the surprise on recalled tokens that the probabilities leave possible."""
    first = [token.base_p for token in entry.tokens if token.rank == 1 and token.base_p is not None]
    most = [high for p in first if (high := _range(p, report)[1]) > 0.0]
    recalled = -math.fsum(map(math.log2, most))
    others = math.fsum(_low_base(token, report) for token in entry.tokens if token.rank != 1)
    return recalled / (recalled + others) if recalled > 0.0 else 0.0


def _sampled(report: Report, entry: ScoredSnippet) -> Iterator[str]:
    scheme = report.settings.sampling
    if scheme is None:
        return
    if entry.unknown_chance and entry.verdict not in OPEN:
        yield f"{entry.verdict}, and whether sampling gives it is not known"
    unknown = entry.chance is None and entry.chance_at_most is None
    if unknown and entry.verdict in SOFTER and not entry.unknown_chance:
        yield "nobody knows whether sampling gives it, and it is not counted as such"
    if entry.chance is None:
        return
    likely = entry.chance >= scheme.chance
    if entry.verdict is Verdict.EXTRACTABLE and not likely:
        yield "extractable, with a smaller chance than the settings ask for"
    if likely and entry.verdict in SOFTER and not entry.alarm:
        yield f"{entry.verdict}, although sampling probably gives it"
