"""The committed JSON Schemas, and how a report is held against one."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, cast

import jsonschema
from lorecall.adapters.core.errors import UsageError


@cache
def schema(name: str) -> dict[str, Any]:
    """Return the committed schema `name`.schema.json."""
    text = files("lorecall.audit.reports").joinpath("schemas", f"{name}.schema.json").read_text("utf-8")
    return cast("dict[str, Any]", json.loads(text))


def check(report: dict[str, Any], kind: str, name: str) -> None:
    """Hold a report against the schema of its kind.

    Args:
        report: JSON values.
        kind: Name of the schema: "report", "matrix", "ranks" or "mitigation".
        name: What to call the report in the error.

    Raises:
        UsageError: It does not fit; the message names the field, without its value.
    """
    found = schema(kind)
    first = next(iter(jsonschema.Draft202012Validator(found).iter_errors(report)), None)
    if first is not None:
        where = "/".join(str(part) for part in first.absolute_path) or "the report"
        version = found["properties"]["schema_version"]["const"]
        raise UsageError(
            f"{name} is no report of schema {version}: {where} breaks {first.validator!r}",
            hint="it was written by another version, or changed by hand",
        )
