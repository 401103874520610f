"""A version goes live only after an audit that meets the operator's policy (`--require-audit`)."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.registry.records import VersionRecord
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.jobs.order import Order, OrderSettings
from lorecall.audit.jobs.service import AuditService
from lorecall.audit.jobs.spool import Texts
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import Group
from lorecall.audit.reports.redact import redactor
from lorecall.audit.scorer import AdapterVersion, ScoreItem


@dataclass(frozen=True, slots=True)
class AuditGate:
    """Orders the audit of every version that is to go live; `Runner` does it and admits the version.

    Attributes:
        audits: The audit service of this server.
        policy: What must be met.
        sets: The operator's own candidates and controls, asked of every adapter.
    """

    audits: AuditService
    policy: Policy
    sets: Mapping[Group, CandidateSet]

    def check(self, snippets: Mapping[str, Any]) -> None:
        """Check that there is something to ask for.

        Raises:
            UsageError: Neither the operator nor the caller gave candidates.
        """
        if Group.CANDIDATES not in self.sets and not snippets.get(Group.CANDIDATES.value):
            raise UsageError(
                "this server audits an adapter before it serves it, and there are no candidates",
                hint="send some with the adapter, or start the server with LORECALL_AUDIT_CANDIDATES",
                param="candidates",
            )

    async def admit(self, record: VersionRecord, snippets: Mapping[str, Any]) -> None:
        """Put a version under audit; it goes live, or into quarantine, when that is done."""
        policy = self.policy.model_dump(exclude_none=True)
        texts = Texts(merged(self.sets, own_sets(snippets)), None, redactor(show=False).salt)
        order = Order(record.name, OrderSettings(policy=policy), texts)
        version = AdapterVersion(record.name, record.version, record.rank, record.effective_parameters)
        await asyncio.to_thread(self.audits.admit, order, version)


def own_sets(snippets: Mapping[str, Any]) -> dict[Group, CandidateSet]:
    """Return the sets that a caller sent with an adapter."""
    given = {group: snippets.get(group.value) or [] for group in Group}
    return {
        group: CandidateSet("request", "", tuple(ScoreItem(i["id"], i["prefix"], i["target"]) for i in items))
        for group, items in given.items()
        if items
    }


def merged(
    operator: Mapping[Group, CandidateSet], own: Mapping[Group, CandidateSet]
) -> dict[Group, CandidateSet]:
    """Return the operator's snippets with the caller's behind them; the caller's ids get the prefix `own/`."""
    sets = {}
    for group in Group:
        given = operator.get(group)
        items = [*(given.items if given is not None else ())]
        if group in own:
            items += [replace(item, id=f"own/{item.id}") for item in own[group].items]
        if items:
            digest = hashlib.sha256(json.dumps([[i.id, i.prefix, i.target] for i in items]).encode())
            name = given.name if given is not None else "request"
            sets[group] = CandidateSet(name, digest.hexdigest(), tuple(items))
    return sets
