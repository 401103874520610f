"""Of a multimodal checkpoint the text model is prepared, and computes what the whole one does without images."""

import json
from pathlib import Path

import pytest
import torch
from lorecall.adapters.bases.prepare import prepare_base
from lorecall.adapters.bases.quantize import INT8
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.core.errors import BaseModelError
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.families.models import FAMILIES, Family, build_source

MULTIMODAL = [family for family in FAMILIES if family.parts]
IDS = torch.randint(3, 512, (1, 50), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", MULTIMODAL, ids=str)
def test_the_text_model_is_prepared(family: Family, tmp_path: Path) -> None:
    """Its numbers are those of the whole model; nothing of the parts that see is left; INT8 loads whole."""
    source = build_source(family, tmp_path / "source")
    kept = getattr(torch, prepare_base(tmp_path / "base", str(source), "none").manifest.dtype)
    whole = AutoModelForImageTextToText.from_pretrained(source, dtype=kept).eval()
    if kept != torch.float32:  # the weights are rounded once, the arithmetic is that of float32
        whole = whole.float()
    with torch.no_grad():
        expected, found = (model(IDS).logits for model in (whole, load_served_model(tmp_path / "base")))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "base/config.json").read_text())
    assert config["architectures"][0].endswith("ForCausalLM")
    assert "vision_config" not in config
    assert prepare_base(tmp_path / "int8", str(source), "int8").manifest.scheme == INT8
    with torch.no_grad():
        assert load_served_model(tmp_path / "int8")(IDS).logits.isfinite().all()


def test_what_cannot_be_taken_out_is_refused(tmp_path: Path) -> None:
    """The sentence says which part and why."""
    source = build_source(MULTIMODAL[0], tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(BaseModelError, match="multimodal and quantised already"):
        prepare_base(tmp_path / "base", str(source), "auto")
    other = AutoConfig.for_model("kosmos-2").to_dict() | {
        "architectures": ["Kosmos2ForConditionalGeneration"]
    }
    (source / "config.json").write_text(json.dumps(other))
    with pytest.raises(
        BaseModelError, match=r"its text model \(kosmos_2_text_model\) cannot be served alone"
    ):
        prepare_base(tmp_path / "base", str(source), "none")
    assert not (tmp_path / "base").exists()
