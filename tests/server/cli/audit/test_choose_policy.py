"""Which policy the options of `lorecall audit run` make, alone and beside a file."""

from lorecall.server.cli.audit.inputs import choose_policy


def test_a_limit_on_the_rate_replaces_those_on_what_it_counts() -> None:
    """It counts certified and recalled; what sampling gives, and what is nearly given, stay limited."""
    policy = choose_policy(None, {"max_rate": 0.5})
    assert (policy.max_certified, policy.max_recalled) == (None, None)
    assert policy.max_near_verbatim == 0
    assert policy.max_extractable is not None
    assert policy.max_extractable.count == 0
