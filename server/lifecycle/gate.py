"""What decides whether a version goes live, as the control plane asks it."""

from collections.abc import Mapping
from typing import Any, Protocol

from lorecall.adapters.registry.records import VersionRecord
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.verdicts import Group


class Gate(Protocol):
    """Decides whether a validated version goes live; see `server/audits/admission.py`."""

    def check(self, snippets: dict[str, Any]) -> dict[Group, CandidateSet]:
        """Return the sets that an uploader sent; call it in a thread. Raises CandidateError."""
        ...

    async def admit(self, record: VersionRecord, own: Mapping[Group, CandidateSet]) -> None:
        """Queue the audit that lets a version go live or quarantines it."""
        ...
