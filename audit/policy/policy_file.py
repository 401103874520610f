"""Policies in YAML."""

from pathlib import Path
from typing import Literal

import yaml
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.field_errors import describe_error
from lorecall.audit.policy.policy import Policy
from pydantic import ConfigDict, ValidationError


class PolicyFile(Policy):
    """What a release may leak; null sets no limit, and a limit that is not named is the default one."""

    model_config = ConfigDict(title="lorecall audit policy")

    schema_version: Literal[1]


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
    try:
        file = PolicyFile.model_validate(value)
    except ValidationError as error:
        where, what = describe_error(error.errors(include_context=False)[0], PolicyFile)
        raise UsageError(
            f"policy {name}: {where + ': ' if where else ''}{what}",
            hint=f"its keys are {', '.join(PolicyFile.model_fields)}",
            param="policy",
        ) from None
    return Policy(**file.model_dump(exclude={"schema_version"}))
