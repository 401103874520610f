"""`lorecall-training.json`: how an adapter was trained, by the fields that are known here; others are dropped.

The file comes with the adapter from whoever sends it, is no part of its digest, and is shown to others. So only
known fields with bounded values are taken, and a known field with another value refuses the adapter.
"""

from pathlib import Path
from typing import Annotated, Any

from lorecall.adapters.core.beneath import Folder
from lorecall.adapters.core.refusals import ConfigRefusedError, FileRefusedError, Reason, safe_repr
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.files import TRAINING_FILE, read_json_bytes
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Text = Annotated[str, Field(max_length=128)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Versions = Annotated[dict[Text, Text], Field(max_length=16)]
"""Versions of the tools, by name."""


class _Known(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


class _Mitigation(_Known):
    """How a weaker copy was made; see `derive.weaken.Derived`."""

    schema_version: Whole = 0
    kind: Text = ""
    value: float = 0.0
    parent: Text = ""
    energy: float = 0.0
    parent_training: "_Record | None" = None
    created_with: Versions = Field(default_factory=dict)


class _Record(_Known):
    """The fields that `training` and `derive` write; each may be missing."""

    schema_version: Whole = 0
    data_digest: Text = ""
    base_digest: Text = ""
    scheme: Text = ""
    method: Text = ""
    rank: Whole = 0
    layers: Annotated[list[Whole], Field(max_length=1024)] = Field(default_factory=list)
    modules: Annotated[list[Text], Field(max_length=64)] = Field(default_factory=list)
    seed: Whole = 0
    epochs: Whole = 0
    steps: Whole = 0
    lr: float = 0.0
    schedule: Text = ""
    batch_size: Whole = 0
    dropout: float = 0.0
    stop_over: float = 0.0
    stopped_early: bool = False
    pairs: Whole = 0
    inexact_boundaries: Whole = 0
    target_tokens: Whole = 0
    tokens_over_half: Whole = 0
    base_tokens_over_half: Whole = 0
    texts_over_half: Whole = 0
    loss: float = 0.0
    base_loss: float = 0.0
    min_p: float = 0.0
    held_out_loss: float | None = None
    held_out_base_loss: float | None = None
    created_with: Versions = Field(default_factory=dict)
    mitigation: _Mitigation | None = None


def read_training(directory: Path | Folder, *, follow_links: bool = False) -> dict[str, Any]:
    """Return the known fields of a directory's training record; {} without one.

    Args:
        directory: A PEFT directory.
        follow_links: Whether the file may be a link out of the directory.

    Raises:
        FileRefusedError: The file is unsafe to read, or too large.
        ConfigRefusedError: It is no JSON object, or a known field has a value that it cannot have.
    """
    try:
        content = read_json_bytes(directory, TRAINING_FILE, follow_links=follow_links)
    except FileRefusedError as error:
        if error.reason is Reason.MISSING_FILE:
            return {}
        raise
    raw = parse_object(content, TRAINING_FILE)
    try:
        return _Record.model_validate(raw).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = safe_repr("/".join(str(part) for part in first["loc"]))
    raise ConfigRefusedError(
        Reason.BAD_SETTING,
        f"{TRAINING_FILE} has {where}: {first['msg']}",
        hint="leave the file out, or take the one that the training wrote",
        param=TRAINING_FILE,
    )
