"""What an engine is started with: its largest rank, its dtype, its plugins."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lorecall.adapters.bases.prepare import BASE_MANIFEST, BaseManifest
from lorecall.adapters.core.errors import AdapterError, BaseModelError, UsageError
from lorecall.server.engine.start import environment
from lorecall.server.engine.start.environment import plugin_names, rank_limit, served_dtype
from vllm import platforms


@pytest.mark.parametrize(("ranks", "limit"), [([], 1), ([1], 1), ([2, 8], 8), ([9, 3], 16), ([512], 512)])
def test_the_engine_is_started_for_the_least_rank_that_holds_all(ranks: list[int], limit: int) -> None:
    """There are only a few ranks that vLLM takes."""
    assert rank_limit(ranks) == limit


def test_a_rank_that_vllm_cannot_serve_is_refused() -> None:
    """Before any engine is started."""
    with pytest.raises(AdapterError, match="rank 513"):
        rank_limit([513])


AMPERE = [torch.bfloat16, torch.float16, torch.float32]
TURING = [torch.float16, torch.float32]


@pytest.mark.parametrize(
    ("prepared", "supported", "dtype"),
    [
        ("float32", AMPERE, "bfloat16"),
        ("float32", TURING, "float16"),
        ("bfloat16", AMPERE, "bfloat16"),
        ("bfloat16", TURING, "float16"),
        ("float16", AMPERE, "float16"),
        ("float32", None, "float32"),
        ("bfloat16", None, "bfloat16"),
    ],
)
def test_the_platform_has_the_last_word_on_the_dtype(
    prepared: str,
    supported: Any,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A base that was prepared on a CPU says float32, in which a GPU's INT8 does not start."""

    class Device:
        supported_dtypes = supported

        def is_cpu(self) -> bool:
            return supported is None

    manifest = BaseManifest("m", "m", "", "int8-w8a8", "", prepared, "")
    monkeypatch.setattr(environment, "read_base_manifest", lambda _path: manifest)
    monkeypatch.setattr(platforms, "_current_platform", Device())
    assert served_dtype("base") == dtype
    assert ("is served as" in capsys.readouterr().err) is (dtype != prepared)


@pytest.mark.parametrize("layout", ["pack-quantized", "gptq", "awq"])
@pytest.mark.parametrize("stated", ["float32", "float16", "bfloat16", None])
def test_packed_weights_are_served_in_bfloat16_on_a_cpu(
    layout: str, stated: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """VLLM's kernel takes no other: a base that said float32 or float16 ended the engine."""
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": layout}}))
    if stated is not None:
        manifest = BaseManifest("m", "m", "", layout, "", stated, "")
        (tmp_path / BASE_MANIFEST).write_text(json.dumps(asdict(manifest)))
    assert served_dtype(str(tmp_path)) == "bfloat16"
    assert ("is served as" in capsys.readouterr().err) is (stated in ("float32", "float16"))


def test_a_base_without_a_manifest_is_left_to_vllm(tmp_path: Path) -> None:
    """Its "auto" knows the platform."""
    assert served_dtype(str(tmp_path)) == "auto"


@pytest.mark.parametrize(
    ("stated", "names"),
    [
        (None, "resolver,other,lorecall"),
        ("", "lorecall"),
        ("mine", "mine,lorecall"),
        ("lorecall,mine", "lorecall,mine"),
    ],
)
def test_our_plugin_switches_no_other_off(stated: str | None, names: str) -> None:
    """Unset means all that are installed; what the operator wrote stays as it is."""
    assert plugin_names(stated, ["resolver", "other", "lorecall"]) == names


def test_every_installed_plugin_is_named() -> None:
    """The resolvers that vLLM brings are plugins too; without their variables they do nothing."""
    with mock.patch.dict(os.environ):
        os.environ.pop("VLLM_PLUGINS", None)
        environment.prepare_environment()
        named = os.environ["VLLM_PLUGINS"].split(",")
    assert {"lora_filesystem_resolver", "lora_hf_hub_resolver", "lorecall"} <= set(named)


def test_a_cpu_refuses_batch_invariance_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """VLLM takes the variable on any platform, and its engine died of the first request."""
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    with pytest.raises(UsageError, match="VLLM_BATCH_INVARIANT=1 needs a GPU"):
        environment.prepare_environment()


def test_a_cpu_refuses_fp8_before_the_start(tmp_path: Path) -> None:
    """VLLM has no kernel for it there; the hint names a scheme that it has."""
    (tmp_path / "config.json").write_text('{"quantization_config": {"format": "float-quantized"}}')
    with pytest.raises(BaseModelError, match="is FP8") as caught:
        environment.check_scheme(str(tmp_path))
    assert "--quantize int8" in (caught.value.hint or "")
