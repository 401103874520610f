"""Policies in YAML."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.extraction import SamplingWish
from lorecall.audit.jobs.order import make_order
from lorecall.audit.judging.views import FRAMINGS
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Framing, MaxExtractable, Policy, PolicyBounds, TagLimits
from lorecall.audit.policy.policy_file import PolicyFile, check_policy, load_policy
from lorecall.audit.records import Bounds, Verdict
from lorecall.audit.reports.models import json_schema
from pydantic import ValidationError

from tests.audit.policy.test_policy import judged, parts, standing_out

Write = Callable[[str, str | bytes], Path]


def test_a_policy_sets_what_it_names_and_leaves_the_rest(write: Write) -> None:
    """Null lifts a limit; what is not named keeps its default."""
    path = write("p.yaml", "schema_version: 1\nmax_certified: null\nmax_rate: 0.01\nmin_controls: 300\n")
    assert load_policy(path) == Policy(max_certified=None, max_rate=0.01, min_controls=300)


def test_what_sampling_may_give_is_a_policy_of_its_own(write: Write) -> None:
    """Null lifts the limit; a part that is not named is the default, or the engine's own."""
    path = write("p.yaml", "schema_version: 1\nmax_extractable: {samples: 1000, temperature: 0.7}\n")
    limit = load_policy(path).max_extractable
    assert limit == MaxExtractable(samples=1000, temperature=0.7)
    assert limit.wish() == SamplingWish(1000, 0.5, 0.7, None, None)
    assert load_policy(write("n.yaml", "schema_version: 1\nmax_extractable: null")).max_extractable is None


def test_the_schema_names_every_field_of_a_policy() -> None:
    """A limit that the gate knows can be written in a file."""
    schema = json_schema(PolicyFile)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == {"schema_version", *Policy.model_fields}


NEVER_MET: list[tuple[dict[str, object], str]] = [
    ({"max_membership_fdr": 1}, "max_membership_fdr: Input should be less than 1"),
    ({"max_membership_fdr": 0.0}, "max_membership_fdr: Input should be greater than 0"),
    ({"max_rate": 0}, "max_rate: Input should be greater than 0"),
    ({"by_tag": [{"tags": ["pii"], "max_rate": 0.0}]}, "by_tag.0.max_rate: Input should be greater than 0"),
    ({"max_control_rate": 0.0}, "max_control_rate: Input should be greater than 0"),
    ({"max_partial": 0, "bounds": {"false_discovery_rate": 0.0}}, "max_partial needs a bound false_disc"),
]


@pytest.mark.parametrize(("limits", "message"), NEVER_MET, ids=str)
def test_a_limit_that_no_audit_can_meet_is_refused_by_each_way_in(
    limits: dict[str, object], message: str
) -> None:
    """From a file, in a request, and to code; the bound is the model's, so its schema has it, too."""
    with pytest.raises(UsageError, match=re.escape(message)):
        check_policy({"schema_version": 1, **limits}, "'p.yaml'")
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        make_order({"adapter": "a", "candidates": [{"prefix": "a b", "target": "c d"}], "policy": limits}, {})
    assert refused.value.param == "policy"
    with pytest.raises(ValidationError):
        Policy.model_validate(limits)
    if "bounds" not in limits:  # a schema holds no two fields against each other
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"schema_version": 1, **limits}, json_schema(PolicyFile))


@pytest.mark.parametrize(
    "limits",
    [{"max_membership_fdr": 0.999}, {"max_rate": 1}, {"max_control_rate": 1}, {"bounds": {"bits": 0}},
     {"bounds": {"false_discovery_rate": 0}}, {"bounds": {"false_discovery_rate": 1}, "max_partial": 0}],
    ids=str,
)  # fmt: skip
def test_the_ends_that_can_be_met_are_taken(limits: dict[str, object]) -> None:
    """And met, by an audit in which every one of 500 candidates and controls is clear."""
    policy = check_policy({"schema_version": 1, **limits}, "of a test")
    clear = parts(candidates=judged(Verdict.CLEAR, 500), controls=judged(Verdict.CLEAR, 500))
    assert judge_result(
        replace(standing_out(1.0), summaries=clear.summaries, bounds=policy.bounds.bounds()), policy
    ).passed


def test_bounds_framings_and_limits_by_tag_are_in_the_file(write: Write) -> None:
    """They come back from what a report or the registry stores of a policy, too."""
    text = """schema_version: 1
min_candidates: 40
max_membership_fdr: 0.01
required_framings: [raw, chat]
by_tag:
- {tags: [pii, key], max_certified: 0, min_candidates: 10}
bounds: {edit_distance: 0.2}
"""
    policy = load_policy(write("p.yaml", text))
    assert policy.by_tag == (TagLimits(tags=("pii", "key"), max_certified=0, min_candidates=10),)
    assert policy.by_tag[0].max_recalled is None, "what a limit by tag does not name is no limit"
    assert policy.bounds.bounds() == Bounds(edit_distance=0.2)
    assert policy.required_framings == ("raw", "chat")
    for stored in (policy.model_dump(), policy.model_dump(mode="json")):
        assert check_policy({"schema_version": 1, **stored}, "stored") == policy


def test_the_policy_knows_each_bound_and_each_framing() -> None:
    """Those of the audit, with its defaults."""
    assert set(PolicyBounds.model_fields) == {field.name for field in fields(Bounds)}
    assert PolicyBounds().bounds() == Bounds()
    assert get_args(Framing) == FRAMINGS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_certified: 0", "schema_version"),
        ("schema_version: 1\nmax_certifed: 0", "may mean 'max_certified'"),
        ("schema_version: 1\nPhone of Jo: 555", r"^policy 'p.yaml': a field that is not known \("),
        ("schema_version: 1\nmax_rate: 2", "max_rate"),
        ("schema_version: 1\nmax_recalled: -1", "max_recalled"),
        ("schema_version: 1\nmax_recalled: true", "max_recalled"),
        ("schema_version: 1\nrequired_framings: [xml]", "required_framings.0"),
        ("schema_version: 1\nrequired_framings: raw", "required_framings"),
        ("schema_version: 1\nby_tag: [{max_certified: 0}]", "by_tag.0.tags"),
        ("schema_version: 1\nby_tag: [{tags: []}]", "by_tag.0.tags"),
        (
            "schema_version: 1\nby_tag: [{tags: [pii], max_certifed: 0}]",
            "which may mean 'max_certified'",
        ),
        ("schema_version: 1\nbounds: {edit_distance: 2}", "bounds.edit_distance"),
        ("schema_version: 1\nbounds: {bitz: 2}", "which may mean 'bits'"),
        ("schema_version: 1\nmax_extractable: 3", "max_extractable"),
        ("schema_version: 1\nmax_extractable: {chance: 1.0}", "max_extractable.chance"),
        ("schema_version: 1\nmax_extractable: {top_p: 0}", "max_extractable.top_p"),
        ("- 1", "valid dictionary"),
        ("a: [", "is not YAML"),
        (b"\xff", "is not YAML"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(write: Write, content: str | bytes, message: str) -> None:
    """A misspelt limit must not pass as none."""
    with pytest.raises(UsageError, match=message):
        load_policy(write("p.yaml", content))


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    """Exit code 2."""
    with pytest.raises(UsageError, match=r"none\.yaml"):
        load_policy(tmp_path / "none.yaml")
