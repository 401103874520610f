"""Policies in YAML, checked against a committed schema."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import jsonschema
import yaml
from lorecall.adapters.errors import UsageError
from lorecall.audit.policy import Policy


@cache
def policy_schema() -> dict[str, Any]:
    """Return the committed JSON Schema of a policy file."""
    text = files("lorecall.audit").joinpath("policy.schema.json").read_text("utf-8")
    return cast("dict[str, Any]", json.loads(text))


def load_policy(path: Path) -> Policy:
    """Read a policy; a limit that the file does not name is the default one, and null sets none.

    Raises:
        UsageError: The file is missing, is not YAML, or does not fit its schema.
    """
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"no policy at {str(path)!r}", hint="name a YAML file", param="policy") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path.name!r} is not YAML", hint="such as max_certified: 0", param="policy"
        ) from error
    problem = next(iter(jsonschema.Draft202012Validator(policy_schema()).iter_errors(value)), None)
    if problem is not None:
        known = ", ".join(policy_schema()["properties"])
        where = "/".join(str(part) for part in problem.absolute_path)
        raise UsageError(
            f"policy {path.name!r}: {where + ': ' if where else ''}{problem.message}",
            hint=f"its keys are {known}",
            param="policy",
        )
    return Policy(**{name: limit for name, limit in value.items() if name != "schema_version"})
