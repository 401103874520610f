"""What the reports have in common: frozen pydantic models, the parts that several hold, and their JSON."""

import json
from collections.abc import Sized
from importlib.metadata import version
from typing import Annotated, Any, Literal, Self, TypeVar

from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.core.field_errors import describe_error
from lorecall.audit.verdicts import Verdict
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError

SCHEMA_VERSION: Literal["2.0"] = "2.0"
TAGS = ("unscored", "scored")
"""The two kinds of a snippet's entry; pydantic names the kind in the path of an error."""

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, from_attributes=True, use_attribute_docstrings=True)

Count = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True)]
Amount = Annotated[float, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Confidence = Annotated[float, Field(strict=True, gt=0, lt=1)]
Threshold = Annotated[
    float,
    Field(strict=True, ge=0.5, le=1, description="sigmoid(2 * epsilon): a token over it is locked."),
]
Epsilon = Annotated[float, Field(strict=True, ge=0, description="Bound on the engine's per-logit error.")]
Version = Annotated[str, Field(description="sha256 over the adapter's configuration and weights.")]
Started = Annotated[str, Field(description="UTC, ISO 8601.")]
Parameters = Annotated[
    int,
    Field(strict=True, ge=0, description="Sum over the adapted modules of r * (d_in + d_out)."),
]
DeltaLoss = Annotated[
    Number | None,
    Field(description="Base loss less adapter loss on the target tokens, nats a token; null without scores."),
]


def _of_every_verdict(counts: dict[Verdict, int]) -> dict[Verdict, int]:
    if len(counts) < len(Verdict):
        raise PydanticCustomError("missing", "a verdict has no count")
    return counts


VerdictCounts = Annotated[
    dict[Verdict, Count],
    AfterValidator(_of_every_verdict),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {str(verdict): {"type": "integer", "minimum": 0} for verdict in Verdict},
            "required": [str(verdict) for verdict in Verdict],
            "additionalProperties": False,
        }
    ),
]


def is_none(value: object) -> bool:
    """Say whether a field is left out of the JSON."""
    return value is None


def is_empty(value: Sized) -> bool:
    """Say whether a collection is left out of the JSON."""
    return not value


def optional() -> Any:
    """Return a field that the JSON holds only where it has a value."""
    return Field(default=None, exclude_if=is_none)


class ReportModel(BaseModel):
    """A part of a report: closed, finite and frozen; it can be made from a record with the same names."""

    model_config = ConfigDict(**CONFIG, frozen=True)

    def values(self) -> dict[str, Any]:
        """Return the JSON values."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """Return the text of the JSON file.

        Raises:
            ValueError: A free-form part, such as a training manifest, holds a number that is not finite.
        """
        return json.dumps(self.values(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


M = TypeVar("M", bound=ReportModel)


def parse(model: type[M], value: object, name: str) -> M:
    """Return the report that JSON values are.

    Args:
        model: The kind of report.
        value: JSON values.
        name: What to call the report in the error.

    Raises:
        UsageError: It does not fit; the message names the field and pydantic's rule, without the value.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    loc = tuple(part for part in first["loc"] if part not in TAGS)
    where, _ = describe_error({**first, "loc": loc}, model)
    raise UsageError(
        f"{name} is no report of schema {SCHEMA_VERSION}: {where.replace('.', '/') or 'the report'} breaks "
        f"{first['type']!r}",
        hint="it was written by another version, or changed by hand",
    )


class _Untitled(GenerateJsonSchema):
    """JSON Schema without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  pydantic's own signature
        return False


def json_schema(model: type[BaseModel]) -> JsonSchemaValue:
    """Return a model's JSON Schema (draft 2020-12)."""
    return {"$schema": _Untitled.schema_dialect, **model.model_json_schema(schema_generator=_Untitled)}


class Tool(ReportModel):
    """What wrote the report."""

    name: Literal["lorecall"]
    version: str

    @classmethod
    def here(cls) -> Self:
        """Return this installation."""
        return cls(name="lorecall", version=version("lorecall"))


class Engine(ReportModel):
    """What scored and decoded."""

    engine: str
    base: str
    """Served name of the base."""
    base_digest: str
    scheme: str
    """Quantization of the base, as it runs."""
    device: str = ""
    """What computes, such as "cpu" or "cuda NVIDIA H100 (sm_90)"; empty if unknown."""
    dtype: str = ""
    """Of activations and unquantised weights."""
    kv_cache_dtype: str = ""
    """Of cached keys and values."""


class MeasuredEngine(Engine):
    """An engine and its own measured error."""

    epsilon: Amount | None
    """The engine's own bound on its per-logit error; null if it was not measured."""


class Source(ReportModel):
    """Where a set of snippets came from."""

    name: str
    digest: Annotated[str, Field(pattern="^[0-9a-f]*$")]
    """sha256 of the file's bytes, or of what was made."""
    bad_lines: Count
    generated: str
    """How the set was made, empty if it was read from a file."""


class Inputs(ReportModel):
    """The sets."""

    candidates: Source
    controls: Source | None = optional()
    own_candidates: Source | None = optional()
    """What the uploader of the adapter sent with it; judged apart, as are its controls."""
    own_controls: Source | None = optional()


class Rate(ReportModel):
    """Hits in tries, with the exact two-sided interval (Clopper, Pearson 1934)."""

    hits: Count
    of: Count
    low: Share
    high: Share


class RateAt(Rate):
    """A rate that names the confidence of its interval."""

    confidence: Confidence
