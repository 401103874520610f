"""The soak: every adapter asked for every shipped snippet, and what that says of the rule."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lorecall.audit.records import AuditResult, Group, Verdict


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
