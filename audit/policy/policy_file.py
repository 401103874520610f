"""Policies in YAML, checked against a committed schema."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import jsonschema
import yaml
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.policy.policy import Policy


@cache
def policy_schema() -> dict[str, Any]:
    """Return the committed JSON Schema of a policy file."""
    text = files("lorecall.audit.policy").joinpath("policy.schema.json").read_text("utf-8")
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
    return check_policy(value, repr(path.name))


def check_policy(value: object, name: str) -> Policy:
    """Return the policy that a value is.

    Args:
        value: What was read, such as {"max_certified": 0}.
        name: What to call it in a message.

    Raises:
        UsageError: It does not fit its schema.
    """
    problem = next(iter(jsonschema.Draft202012Validator(policy_schema()).iter_errors(value)), None)
    if problem is not None:
        known = ", ".join(policy_schema()["properties"])
        where = "/".join(str(part) for part in problem.absolute_path)
        raise UsageError(
            f"policy {name}: {where + ': ' if where else ''}{problem.message}",
            hint=f"its keys are {known}",
            param="policy",
        )
    limits = cast("dict[str, Any]", value)
    return Policy(**{name: limit for name, limit in limits.items() if name != "schema_version"})
