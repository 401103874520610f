"""The soak: every adapter asked for every shipped snippet, and what that says of the rule."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lorecall.audit.estimates import CONFIDENCE
from lorecall.audit.records import AuditResult
from lorecall.audit.stats.intervals import clopper_pearson
from lorecall.audit.verdicts import GIVEN, Group, Verdict

LEVELS = (0.01, 0.05, 0.1, 0.5)


def soak_result(results: Sequence[AuditResult], base: dict[str, str]) -> dict[str, Any]:
    """Return what the audits add up to.

    Args:
        results: One audit for each adapter, with all its snippets kept.
        base: What is known of the base: its name, scheme and digest.
    """
    rows = [_row(result) for result in results]
    totals = {
        name: sum(row[name] for row in rows)
        for name in ("pairs", "certified", "certified_decoded", "recalled", "alarms", "errors")
    }
    first = results[0]
    return {
        "schema_version": 1,
        "tool": {"name": "lorecall", "version": version("lorecall")},
        "started": first.started,
        "seconds": round(sum(result.seconds for result in results), 1),
        "engine": first.engine.engine,
        "epsilon": first.epsilon.value,
        "base": base,
        **totals,
        "adapters": rows,
    }


def _row(result: AuditResult) -> dict[str, Any]:
    certified = [s for s in result.snippets if s.rule is not None and s.rule.certified]
    controls = result.summaries[Group.CONTROLS]
    return {
        "adapter": result.adapter.name,
        "version": result.adapter.version,
        "rank": result.adapter.rank,
        "pairs": len(result.snippets),
        "certified": len(certified),
        "certified_decoded": sum(s.match is not None and s.match.ids_equal for s in certified),
        "recalled": sum(s.verdict is Verdict.RECALLED for s in result.snippets),
        "alarms": sum(summary.alarms for summary in result.summaries.values()),
        "errors": sum(s.verdict is Verdict.ERROR for s in result.snippets),
        "controls": asdict(controls.recited),
    }


def to_markdown(found: dict[str, Any]) -> str:
    """Return the result as a page."""
    base = found["base"]
    pairs = f"{found['pairs']} pairs of snippet and adapter"
    asked = f"{pairs} on {base['name']} ({base['scheme']}, {base['digest'][:16]})"
    lines = [
        "# The soak",
        "",
        "Written by `make soak` ([test_soak.py](../../tests/server/test_soak.py)); the same numbers are in",
        "[result.json](result.json).",
        "",
        f"{len(found['adapters'])} adapters, each asked for every shipped snippet as served: {asked},",
        f"{found['engine']}, ε = {found['epsilon']:.3g} per logit, {found['started']}, {found['seconds']:.0f} s.",
        "",
        f"**Certified by probability: {found['certified']}. Reproduced by greedy decoding, token for token:",
        f"{found['certified_decoded']}.** Alarms: {found['alarms']}; not scored: {found['errors']}.",
        "",
        "| adapter | rank | pairs | certified | of them decoded | recalled besides | controls recited | up to |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["adapters"]:
        controls = f"{row['controls']['hits']} of {row['controls']['of']} | {row['controls']['high']:.2%}"
        counts = (row["rank"], row["pairs"], row["certified"], row["certified_decoded"], row["recalled"])
        lines.append(f"| {row['adapter']} | {' | '.join(map(str, counts))} | {controls} |")
    return "\n".join([*lines, ""])


def write(found: dict[str, Any], folder: Path) -> None:
    """Write result.json and README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(to_markdown(found), encoding="utf-8")


def held_out_result(demo: AuditResult, held_out: AuditResult, base: dict[str, str]) -> dict[str, Any]:
    """Return what never-trained texts came out as, beside controls that hold none of them.

    Args:
        demo: The audit of the trained texts, whose line says which p-value is a finding there.
        held_out: The audit of the never-trained ones against the same controls.
        base: What is known of the base: its name, scheme and digest.
    """
    if demo.membership is None or held_out.membership is None:
        raise AssertionError("an audit without controls")
    line, bits = demo.membership.line, held_out.bounds.bits
    asked = [one for one in held_out.snippets if one.group is Group.CANDIDATES]
    own = Counter(str(one.verdict) for one in asked)
    stretches = [one for one in asked if one.verdict not in GIVEN and one.run_bits >= bits]
    crossing = sum(one.p_value is not None and one.p_value <= line for one in stretches)
    not_clear = sum(count for verdict, count in own.items() if verdict != Verdict.CLEAR)
    with_line = sum(one.verdict in GIVEN for one in asked) + own[Verdict.ERROR] + crossing
    return {
        "adapter": held_out.adapter.name,
        "rank": held_out.adapter.rank,
        "base": base,
        "engine": held_out.engine.engine,
        "epsilon": held_out.epsilon.value,
        "started": demo.started,
        "seconds": round(demo.seconds + held_out.seconds, 1),
        "controls": held_out.membership.controls,
        "trained": {str(k): v for k, v in demo.summaries[Group.CANDIDATES].verdicts.items() if v},
        "line": line,
        "held_out": len(asked),
        "verdicts": dict(sorted(own.items())),
        "stretches": len(stretches),
        "not_clear": asdict(clopper_pearson(not_clear, len(asked), CONFIDENCE)),
        "not_clear_by_the_line": asdict(clopper_pearson(with_line, len(asked), CONFIDENCE)),
        "smallest_p": [
            sum(one.p_value is not None and one.p_value <= level for one in asked) for level in LEVELS
        ],
    }


def held_out_page(found: dict[str, Any]) -> str:
    """Return that result as a page."""

    def rate(name: str) -> str:
        one = found[name]
        share, interval = one["hits"] / one["of"], f"{one['low']:.2%} to {one['high']:.2%}"
        return f"{one['hits']} of {one['of']} | {share:.2%} | {interval}"

    base = found["base"]
    counts = {
        name: ", ".join(f"{count} {verdict}" for verdict, count in found[name].items())
        for name in ("verdicts", "trained")
    }
    levels = [
        f"| {level:.0%} | {count} | {count / found['held_out']:.2%} |"
        for level, count in zip(LEVELS, found["smallest_p"], strict=True)
    ]
    return f"""\
# Texts that were never trained on

Written, with [held-out.json](held-out.json), by
`make soak PYTEST_ARGS='tests/server/test_soak.py -k never_trained'`.

{found["held_out"]} texts of the demo's generator with another seed, asked of `{found["adapter"]}`
(rank {found["rank"]}) as served in the framing raw, beside the {found["controls"]} shipped controls,
which hold none of them.
{base["name"]} ({base["scheme"]}, {base["digest"][:16]}), {found["engine"]}, ε = {found["epsilon"]:.3g},
{found["started"]}, {found["seconds"]:.0f} s.

Verdicts: {counts["verdicts"]}. With a recalled stretch of 20 bits, which by itself makes no verdict:
{found["stretches"]}.
The trained texts beside the same controls: {counts["trained"]}.

| called anything but clear | texts | share | 95 % interval |
|---|---|---|---|
| in an audit of their own | {rate("not_clear")} |
| by the line of the trained texts' audit, p ≤ {found["line"]:.4f} | {rate("not_clear_by_the_line")} |

The stated rate is 5 % at most. The second row is the harder one: where trained texts stand out, the line at which
a recalled stretch is a finding is milder.

| p-value at most | texts | share |
|---|---|---|
{chr(10).join(levels)}

A p-value is valid if each share is no more than its level, up to the luck of one draw of controls.
"""


def write_held_out(found: dict[str, Any], folder: Path) -> None:
    """Write held-out.json and held-out.md."""
    (folder / "held-out.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "held-out.md").write_text(held_out_page(found), encoding="utf-8")


def write_memory(folder: Path, size: float, loaded: Sequence[int]) -> None:
    """Write what a worker held after each swap, in MiB, between versions of one size."""
    numbers = ", ".join(f"{mib:,}" for mib in loaded)
    (folder / "memory.md").write_text(
        "# Memory over swaps\n\n"
        "Written by `make soak`. One name moved between three versions of rank 128 on every linear module of\n"
        f"SmolLM2-135M-Instruct (INT8), {size:.0f} MiB each, {len(loaded)} times. Each time a request was\n"
        "answered and the version before removed.\n\n"
        f"LoadedVersion memory of the engine's worker after each swap, MiB: {numbers}.\n",
        encoding="utf-8",
    )
