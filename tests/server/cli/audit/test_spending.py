"""How much an audit decodes, by its options, its policy and where its candidates are from."""

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.judging.decoding import CHECKED_SHARE
from lorecall.audit.policy.policy import Policy
from lorecall.server.cli.audit.spending import FEW, choose_decoding

ALL = Policy(decode="all")


@pytest.mark.parametrize(
    ("wish", "policy", "candidates", "trained", "sequential", "share"),
    [
        (None, Policy(), FEW, True, False, 1.0),
        (None, Policy(), FEW + 1, True, False, CHECKED_SHARE),
        (None, Policy(), 10 * FEW, False, False, 1.0),
        (None, Policy(), FEW + 1, True, True, 1.0),
        (None, ALL, FEW + 1, True, False, 1.0),
        ("all", Policy(), FEW + 1, True, False, 1.0),
        ("likely", Policy(), 5, False, False, CHECKED_SHARE),
    ],
)
def test_few_candidates_and_given_ones_are_all_decoded(
    wish: str | None, policy: Policy, candidates: int, *, trained: bool, sequential: bool, share: float
) -> None:
    """Only many candidates from training data are decoded economically without being asked."""
    assert choose_decoding(wish, policy, candidates, trained=trained, sequential=sequential) == share


@pytest.mark.parametrize(
    ("wish", "policy", "sequential", "why"),
    [
        ("some", Policy(), False, "unknown decoding"),
        ("likely", ALL, False, "every candidate is decoded"),
        ("likely", Policy(), True, "until-bound"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(
    wish: str, policy: Policy, why: str, *, sequential: bool
) -> None:
    """With what to do instead."""
    with pytest.raises(UsageError, match=why) as caught:
        choose_decoding(wish, policy, 10, trained=True, sequential=sequential)
    assert caught.value.hint
