"""A training record is read by its known fields, with bounded values; everything that we write is known."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.derive.weaken import Derived
from lorecall.adapters.peft_format.files import TRAINING_FILE
from lorecall.adapters.peft_format.training_record import _Mitigation, _Record, read_training
from lorecall.adapters.training.train import TrainingRecord


@pytest.mark.parametrize(("written", "known"), [(TrainingRecord, _Record), (Derived, _Mitigation)])
def test_what_we_write_is_known(written: Any, known: Any) -> None:
    """A field that is added to a record and not here would be dropped in silence."""
    assert {field.name for field in fields(written)} <= set(known.model_fields)


def test_known_fields_are_kept_as_they_are(tmp_path: Path) -> None:
    """Others are dropped, within the original's record of a weaker copy, too; nothing is made up."""
    kept = {
        "base_digest": "ab" * 32,
        "layers": [3, 4],
        "loss": 0.25,
        "stopped_early": True,
        "mitigation": {"kind": "rank", "value": 4.0, "parent_training": {"seed": 7}},
    }
    sent = json.loads(json.dumps(kept)) | {"notes": {"secret": ["x"] * 10_000}, "__class__": "x"}
    sent["mitigation"]["parent_training"]["owner"] = "acme"
    (tmp_path / TRAINING_FILE).write_text(json.dumps(sent))
    assert read_training(tmp_path) == kept
    (tmp_path / TRAINING_FILE).write_text("{}")
    assert read_training(tmp_path) == {}
    (tmp_path / TRAINING_FILE).unlink()
    assert read_training(tmp_path) == {}
