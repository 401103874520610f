"""Which policy the options of `lorecall audit run` make, alone and beside a file."""

from pathlib import Path

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.records import Verdict
from lorecall.server.cli.audit.inputs import choose_policy


def test_a_limit_on_the_rate_replaces_those_on_what_it_counts() -> None:
    """It counts certified and recalled; what sampling gives, and what is nearly given, stay limited."""
    policy = choose_policy(None, {"max_rate": 0.5})
    assert (policy.max_certified, policy.max_recalled) == (None, None)
    assert policy.max_near_verbatim == 0
    assert policy.counts()[Verdict.EXTRACTABLE] == 0


SCHEMES = [{"samples": 20}, {"chance": 0.9}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 40}]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_scheme_brings_no_limit_back(scheme: dict[str, int | float | None], tmp_path: Path) -> None:
    """Where the file sets none, or the audit may stop early, only --max-extractable sets one."""
    file = tmp_path / "policy.yaml"
    file.write_text("schema_version: 1\nmax_extractable: null\n")
    lifted = choose_policy(file, {}, sampling=scheme)
    early = choose_policy(None, {"max_rate": 0.1}, 0.1, sampling=scheme)
    for policy in (lifted, early):
        assert policy.counts()[Verdict.EXTRACTABLE] is None
        assert not policy.limits(Verdict.EXTRACTABLE)
        (name, value) = next(iter(scheme.items()))
        assert getattr(policy.sampling_wish, name) == value
    assert choose_policy(file, {}, sampling={**scheme, "count": 2}).counts()[Verdict.EXTRACTABLE] == 2
    assert choose_policy(None, {}, sampling=scheme).counts()[Verdict.EXTRACTABLE] == 0
    with pytest.raises(UsageError, match="until-bound"):
        choose_policy(None, {}, 0.1, sampling={**scheme, "count": 2})


@pytest.mark.parametrize(
    ("limits", "scheme", "message"),
    [
        ({"max_rate": 0.0}, {}, "max_rate: Input should be greater than 0"),
        ({}, {"chance": 1.0}, "max_extractable.chance: Input should be less than 1"),
        (
            {},
            {"temperature": 101.0},
            "max_extractable.temperature: Input should be less than or equal to 100",
        ),
        ({}, {"top_k": -1}, "max_extractable.top_k: Input should be greater than or equal to 0"),
    ],
)
def test_options_have_the_bounds_of_their_fields(
    limits: dict[str, int | float | None], scheme: dict[str, int | float | None], message: str
) -> None:
    """The model's, as a file's have."""
    with pytest.raises(UsageError, match=message):
        choose_policy(None, limits, sampling=scheme)
