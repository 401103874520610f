"""How much an audit of the command line decodes."""

from typing import TYPE_CHECKING

from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.console import note

if TYPE_CHECKING:
    from lorecall.audit.policy.policy import Policy

FEW = 1_000
"""Candidates of which all are decoded unless something else is asked for."""


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
        sequential: Whether the audit may stop early: its interval needs every decode.

    Raises:
        UsageError: The option's value is unknown, or the policy or the sequential test does not allow it.
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
                "--until-bound counts every candidate that it takes as decoded",
                hint="leave --decode out: the audit stops early anyway",
                param="decode",
            )
        share = share_checked("likely" if wish == "likely" else "all", policy)
    if share < 1.0:
        note(
            f"decoding: where the scores leave it open, and a random {share:.0%} of the other candidates; "
            "--decode all decodes every one"
        )
    return share
