"""What an audit of the command line may cost: what it decodes, its budget, and the question before it runs."""

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.console import note

if TYPE_CHECKING:
    from lorecall.audit.inputs.candidates import CandidateSet
    from lorecall.audit.policy.policy import Policy
    from lorecall.audit.runs.estimate import Estimate, Probe
    from lorecall.audit.runs.plan import Budget
    from lorecall.audit.runs.single import AuditSettings
    from lorecall.audit.scorer import Scorer
    from lorecall.audit.verdicts import Group

FEW = 1_000
"""Candidates of which all are decoded unless something else is asked for."""

SMALL = 512
"""Snippets of an audit that is so short that nothing is measured before it, unless it has a budget."""

LONG = 60.0
"""Seconds from which on a terminal is asked."""

NOT_STARTED = 3
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def choose_decoding(
    wish: str | None, policy: "Policy", candidates: int, *, trained: bool, sequential: bool
) -> float:
    """Return the share of the candidates whose decode is ruled out that are decoded nevertheless; 1 for all.

    Args:
        wish: The option: "all", "likely", or None for the default, which is "likely" for more than `FEW`
            candidates from training data, and "all" otherwise.
        policy: The policy, which may ask for all.
        candidates: How many there are.
        trained: Whether they are from training data.
        sequential: Whether a sequential test may stop: it needs the decode of each that is asked for.

    Raises:
        UsageError: The option's value is unknown, or the policy or the sequential test forbids it.
    """
    from lorecall.audit.policy.decoding import CHOICES, share_checked
    from lorecall.server.cli.audit.inputs import check_choice

    if wish is None:
        economical = trained and candidates > FEW and not sequential and policy.decode is None
        share = share_checked("likely" if economical else "all", policy)
    else:
        check_choice("decoding", wish, CHOICES, "decode")
        if sequential and wish == "likely":
            raise UsageError(
                "with --until-bound every candidate that is asked for is decoded",
                hint="leave --decode out: only a part is asked for anyway",
                param="decode",
            )
        share = share_checked("likely" if wish == "likely" else "all", policy)
    if share < 1.0:
        note(
            f"decoding: where the scores leave it open, and a random {share:.0%} of the other candidates; "
            "--decode all decodes every one"
        )
    return share


def read_budget(duration: str | None, tokens: int | None) -> float | None:
    """Return the seconds of a budget such as "10m", None if it is of tokens or there is none.

    Raises:
        UsageError: It is no duration, or tokens are given, too.
    """
    if duration is None:
        return None
    if tokens is not None:
        raise UsageError("--budget and --budget-tokens exclude each other", param="budget")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", duration.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"{duration!r} is no duration", hint="such as 90s, 10m or 2h", param="budget")
    return float(found[1]) * SECONDS[found[2]]


def agree(
    scorer: "Scorer",
    adapter: str,
    sets: "dict[Group, CandidateSet]",
    settings: "AuditSettings",
    *,
    seconds: float | None,
    tokens: int | None,
    yes: bool,
) -> "AuditSettings":
    """Measure the engine, say what the audit will cost, and ask; return the settings with the budget.

    Args:
        scorer: The engine.
        adapter: The served adapter.
        sets: The candidates, and the controls if there are any.
        settings: Of the audit.
        seconds: What it may take; None for any time.
        tokens: What it may score and decode; None for any number.
        yes: Whether to go on without a question.

    Raises:
        UsageError: The budget does not pay for the controls, or nothing could be measured.
        typer.Exit: The answer was no.
    """
    from lorecall.audit.runs.estimate import estimate, probe
    from lorecall.audit.verdicts import Group

    budgeted = seconds is not None or tokens is not None
    if sum(len(one.items) for one in sets.values()) < SMALL and not budgeted:
        return settings
    found = probe(scorer, adapter, sets[Group.CANDIDATES].items, settings)
    if found is None:
        if budgeted:
            raise UsageError("none of the candidates tried could be scored, so a budget buys nothing")
        return settings
    if budgeted:
        settings = replace(settings, budget=_budget(found, sets, settings, seconds, tokens))
    cost = estimate(sets, settings, found)
    note(f"cost: {cost_words(cost, found)}")
    _ask(cost, yes=yes)
    return settings


def _budget(
    found: "Probe",
    sets: "dict[Group, CandidateSet]",
    settings: "AuditSettings",
    seconds: float | None,
    tokens: int | None,
) -> "Budget":
    from lorecall.audit.runs.plan import Budget, check_budget

    costs = found.costs(settings)
    if seconds is None:
        costs = replace(costs, scored=1.0, decoded=1.0)
    budget = Budget(float(tokens or 0) if seconds is None else seconds, costs)
    check_budget(sets, budget, "tokens" if seconds is None else "seconds")
    return budget


def cost_words(cost: "Estimate", found: "Probe") -> str:
    """Return what an audit will cost, in words."""
    controls = f" and {cost.controls:,} controls" if cost.controls else ""
    left = f"; the budget leaves {cost.left_out:,} candidates out" if cost.left_out else ""
    minutes = cost.seconds / 60.0
    time = f"{minutes:.0f} minutes" if minutes >= 2.0 else f"{cost.seconds:.0f} seconds"
    return (
        f"{cost.candidates:,} candidates{controls}; about {cost.scored_tokens:,.0f} tokens to score and "
        f"{cost.decodes:,.0f} answers to decode ({cost.decoded_tokens:,.0f} tokens), {time} at "
        f"{found.scored_per_second:,.0f} scored and {found.decoded_per_second:,.0f} decoded tokens a second, "
        f"measured on {found.asked} candidates{left}"
    )


def _ask(cost: "Estimate", *, yes: bool) -> None:
    if yes or cost.seconds < LONG:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        note("there is no terminal to ask on, so the audit goes on (--yes leaves this line out)")
    elif not typer.confirm("go on?", default=True, err=True):
        note("not started")
        raise typer.Exit(NOT_STARTED)
