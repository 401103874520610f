"""A version goes live only after an audit that meets the operator's policy (`--require-audit`).

The operator's snippets decide. What the uploader sends with an adapter is asked for as well and judged apart: it
can add a reason to refuse, and nothing that it holds makes the operator's part milder.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.tracing import span
from lorecall.adapters.registry.records import VersionRecord
from lorecall.audit.estimates import CONFIDENCE, Membership, Roc
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.inputs.controls import check_disjoint
from lorecall.audit.inputs.json_lines import read_records
from lorecall.audit.inputs.load import load_input
from lorecall.audit.jobs.order import Order, OrderSettings, check_sets
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Texts
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import AuditResult, Epsilon, SetSummary
from lorecall.audit.reports.redact import redactor
from lorecall.audit.scorer import AdapterVersion, EngineInfo
from lorecall.audit.stats.tally import rates
from lorecall.audit.verdicts import Group, Verdict

FRAMINGS = ("raw", "chat")
OWN = {"candidates": Group.OWN_CANDIDATES, "controls": Group.OWN_CONTROLS}
"""The set of each field that an uploader may send."""


@dataclass(frozen=True, slots=True)
class AuditGate:
    """Orders the audit of every version that is to go live; `Runner` does it and admits the version.

    Attributes:
        audits: The audit service of this server.
        policy: What must be met.
        sets: The operator's candidates and controls, asked of every adapter.
        framings: The framings in which they are asked; the gravest verdict of a snippet counts.
    """

    audits: AuditService
    policy: Policy
    sets: Mapping[Group, CandidateSet]
    framings: tuple[str, ...] = ("raw",)

    def check(self, snippets: Mapping[str, Any]) -> dict[Group, CandidateSet]:
        """Return the sets that an uploader sent, for `admit`; call it in a thread.

        Args:
            snippets: Lists of {"id", "prefix", "target"} under `candidates` and `controls`, either or none.

        Raises:
            CandidateError: One cannot be used, or a control is a candidate, too.
        """
        return own_sets(snippets, self.audits.max_snippets)

    async def admit(self, record: VersionRecord, own: Mapping[Group, CandidateSet]) -> None:
        """Put a version under audit; it goes live, or into quarantine, when that is done.

        Args:
            record: The version.
            own: What its uploader sent, as `check` returned it.
        """
        version = AdapterVersion(record.name, record.version, record.rank, record.effective_parameters)
        with span("gate", adapter=record.name, version=record.version):
            await asyncio.to_thread(self.audits.admit, self.order(record.name, own), version)

    def order(self, name: str, own: Mapping[Group, CandidateSet] | None = None) -> Order:
        """Return the order of an audit of the operator's snippets, and of what an uploader sent."""
        settings = OrderSettings(policy=self.policy.model_dump(), framing=self.framings)
        texts = Texts({**self.sets, **(own or {})}, None, redactor(show=False).salt)
        return Order(name, settings, texts)


def own_sets(snippets: Mapping[str, Any], most: int) -> dict[Group, CandidateSet]:
    """Return the sets that an uploader sent; their ids get the prefix `own/`. Raises like `AuditGate.check`.

    Its controls are held against its own candidates only. Whether they are candidates of the operator's comes out
    in the audit: an answer here would tell a stranger what the operator looks for.
    """
    sets: dict[Group, CandidateSet] = {}
    for name, group in OWN.items():
        if records := snippets.get(name):
            read = read_records(name, records, skip_bad=False)
            items = tuple(replace(item, id=f"own/{item.id}") for item in read.items)
            sets[group] = replace(read, name="request", items=items)
    check_sets(sets, most)
    if len(sets) == len(OWN):
        check_disjoint(sets[Group.OWN_CANDIDATES], sets[Group.OWN_CONTROLS])
    return sets


def operator_sets(candidates: Path | None, controls: Path | None) -> dict[Group, CandidateSet]:
    """Read the operator's own snippets, as `lorecall audit run` reads them.

    Raises:
        UsageError: There are no candidates.
        CandidateError: A file cannot be used, or a control is a candidate, too.
    """
    if candidates is None:
        raise UsageError(
            "the gate has no candidates: what an uploader sends can add a refusal, and admits nothing",
            hint="name a file of them with --audit-candidates (LORECALL_AUDIT_CANDIDATES)",
            param="LORECALL_AUDIT_CANDIDATES",
        )
    sets = {Group.CANDIDATES: load_input(candidates)}
    if controls is not None:
        sets[Group.CONTROLS] = load_input(controls)
        check_disjoint(sets[Group.CANDIDATES], sets[Group.CONTROLS])
    return sets


def check_answerable(policy: Policy, sets: Mapping[Group, CandidateSet], framings: tuple[str, ...]) -> None:
    """Check that the gate's audits ask for what its policy requires.

    Raises:
        UsageError: They cannot: a framing is not asked, no candidate has a tag that has limits, or the sets are
            too small for what the policy asks for, even if nothing of them is found.
    """
    framing = next((one for one in policy.required_framings if one not in framings), None)
    if framing is not None:
        raise UsageError(
            f"the policy requires the framing {framing!r}, and the gate asks in {', '.join(framings)}",
            hint="name it in LORECALL_AUDIT_FRAMINGS, or leave it out of the policy",
            param="LORECALL_AUDIT_FRAMINGS",
        )
    missing = {tag for limits in policy.by_tag for tag in limits.tags}
    for item in sets[Group.CANDIDATES].items if missing else ():
        missing.difference_update(item.tags)
    if missing:
        raise UsageError(
            f"the policy limits the tag {min(missing)!r}, and no candidate has it",
            hint="give candidates the tag, or leave it out of the policy",
            param="LORECALL_AUDIT_CANDIDATES",
        )
    reasons = judge_result(best_result(policy, sets, framings), policy).reasons
    if reasons:
        raise UsageError(
            f"no audit of the gate's snippets can meet the policy: {'; '.join(reasons)}",
            hint="give more candidates or controls, or change the policy",
            param="LORECALL_REQUIRE_AUDIT",
        )


def best_result(policy: Policy, sets: Mapping[Group, CandidateSet], framings: tuple[str, ...]) -> AuditResult:
    """Return the audit of the sets in which all is as the policy asks, and every snippet is clear."""
    engine, bounds, controls = EngineInfo("", "", "", ""), policy.bounds.bounds(), sets.get(Group.CONTROLS)
    tags = Counter(tag for item in sets[Group.CANDIDATES].items for tag in set(item.tags))
    rate, roc = bounds.false_discovery_rate, Roc(area=0.5, low=0.0, high=1.0, rates=())
    return AuditResult(
        adapter=AdapterVersion("", "any", 0, 0),
        engine=engine,
        epsilon=Epsilon(0.0, "engine"),
        bounds=bounds,
        seed=0,
        confidence=CONFIDENCE,
        views=framings,
        sources={},
        snippets=(),
        started="",
        seconds=0.0,
        summaries={group: _all_clear(len(found.items)) for group, found in sets.items()},
        membership=None if controls is None else Membership(len(controls.items), rate, 0, 1.0, 0.0, 0, roc),
        by_tag={tag: _all_clear(count) for tag, count in tags.items()},
        extraction=policy.sampling_wish.on(engine),
    )


def _all_clear(snippets: int) -> SetSummary:
    verdicts = {verdict: snippets if verdict is Verdict.CLEAR else 0 for verdict in Verdict}
    recited, leaked = rates(verdicts, CONFIDENCE)
    return SetSummary(snippets, 0, 0, verdicts, verdicts, 0, None, recited, leaked)


def gate_framings(stated: str, *, chat_template: bool) -> tuple[str, ...]:
    """Return the framings of the gate's audits.

    Args:
        stated: The setting: names separated by commas; "" for raw, and chat where the base has a template.
        chat_template: Whether the base has one.

    Raises:
        UsageError: A framing is unknown, or needs the chat template that the base lacks.
    """
    names = tuple(dict.fromkeys(name for part in stated.split(",") if (name := part.strip())))
    wrong = next((name for name in names if name not in FRAMINGS), None)
    if wrong is not None or (stated.strip() and not names):
        raise UsageError(
            f"LORECALL_AUDIT_FRAMINGS has the framing {wrong or stated!r}",
            hint=f"one or both of {', '.join(FRAMINGS)}, separated by commas",
            param="LORECALL_AUDIT_FRAMINGS",
        )
    if "chat" in names and not chat_template:
        raise UsageError(
            "LORECALL_AUDIT_FRAMINGS asks for the framing chat, and the base has no chat template",
            hint="leave it out, or add a chat template to the base's tokenizer",
            param="LORECALL_AUDIT_FRAMINGS",
        )
    return names or (FRAMINGS if chat_template else ("raw",))
