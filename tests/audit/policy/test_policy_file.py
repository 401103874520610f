"""Policies in YAML."""

from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.policy.policy import Policy
from lorecall.audit.policy.policy_file import PolicyFile, load_policy
from lorecall.audit.reports.models import json_schema

Write = Callable[[str, str | bytes], Path]


def test_a_policy_sets_what_it_names_and_leaves_the_rest(write: Write) -> None:
    """Null lifts a limit; what is not named keeps its default."""
    path = write("p.yaml", "schema_version: 1\nmax_certified: null\nmax_rate: 0.01\nmin_controls: 300\n")
    assert load_policy(path) == Policy(max_certified=None, max_rate=0.01, min_controls=300)


def test_the_schema_names_every_field_of_a_policy() -> None:
    """A limit that the gate knows can be written in a file."""
    schema = json_schema(PolicyFile)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == {"schema_version", *Policy.model_fields}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_certified: 0", "schema_version"),
        ("schema_version: 1\nmax_certifed: 0", "may mean 'max_certified'"),
        ("schema_version: 1\nPhone of Jo: 555", r"^policy 'p.yaml': a field that is not known \("),
        ("schema_version: 1\nmax_rate: 2", "max_rate"),
        ("schema_version: 1\nmax_recalled: -1", "max_recalled"),
        ("schema_version: 1\nmax_recalled: true", "max_recalled"),
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
