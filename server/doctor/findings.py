"""What one check found."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How serious a finding is: a server starts unless something is WRONG."""

    OK = "ok"
    ADVICE = "advice"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        status: How serious it is.
        found: What is there.
        change: What to type or change; empty where nothing need be.
    """

    check: str
    status: Status
    found: str
    change: str = ""
