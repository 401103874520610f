"""How much of an audit is decoded, as its order and its policy say."""

from typing import Literal, get_args

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.judging.decoding import CHECKED_SHARE
from lorecall.audit.policy.policy import Policy

DecodeChoice = Literal["all", "likely"]
CHOICES: tuple[DecodeChoice, ...] = get_args(DecodeChoice)


def share_checked(choice: DecodeChoice, policy: Policy) -> float:
    """Return the share of the candidates whose decode is ruled out that are decoded nevertheless; 1 for all.

    Raises:
        UsageError: The policy asks for every candidate's decode, and the order does not.
    """
    if choice == "all":
        return 1.0
    if policy.decode == "all":
        raise UsageError(
            "the policy asks that every candidate is decoded",
            hint="leave decode out, or say all",
            param="decode",
        )
    return CHECKED_SHARE
