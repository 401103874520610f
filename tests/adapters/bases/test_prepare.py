"""A prepared base is whole, carries its manifest, is reused when nothing changed, overwrites no stranger."""

import json
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from typing import Any

import gguf
import pytest
import torch
from lorecall.adapters.bases.locate import find_base
from lorecall.adapters.bases.prepare import BASE_MANIFEST, load_base, prepare_base, read_base_manifest
from lorecall.adapters.bases.quantize import INT8, NONE
from lorecall.adapters.core.errors import BaseModelError
from lorecall.server.engine.cpu.output_matrix import pack_matrix
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.families.models import FAMILIES, build_source
from tests.tiny import build_tiny_base


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An unquantised model directory without a manifest, as it comes from elsewhere."""
    path = build_tiny_base(tmp_path_factory.mktemp("source") / "tiny-lm")
    (path / BASE_MANIFEST).unlink()
    return str(path)


@pytest.fixture(scope="module")
def int8(plain: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model prepared as INT8."""
    out = tmp_path_factory.mktemp("prepared") / "base"
    prepare_base(out, plain, "int8")
    return out


def test_the_manifest_records_source_scheme_and_digests(int8: Path) -> None:
    """What was made from what, and by which versions, can be read back."""
    manifest = read_base_manifest(int8)
    assert (manifest.name, manifest.source, manifest.scheme) == ("tiny-lm", "tiny-lm", INT8)
    assert (manifest.reason, manifest.dtype) == ("asked for", "float32")
    assert len(manifest.digest) == len(manifest.source_digest) == 64
    assert set(manifest.created_with) == {"lorecall", "torch", "transformers", "compressed-tensors"}


def test_tokenizer_and_chat_template_come_along(plain: str, int8: Path) -> None:
    """The prepared directory tokenises and formats chats as the source does."""
    before, after = AutoTokenizer.from_pretrained(plain), AutoTokenizer.from_pretrained(int8)
    chat = [{"role": "user", "content": "Hello, 555-0123!"}]
    assert after.apply_chat_template(chat, tokenize=False) == before.apply_chat_template(chat, tokenize=False)
    assert after("To be, or not").input_ids == before("To be, or not").input_ids


def test_the_same_request_reuses_and_another_scheme_replaces(plain: str, tmp_path: Path) -> None:
    """Source digest and scheme decide; --force builds in any case, to the same bytes."""
    out = tmp_path / "base"
    first = prepare_base(out, plain, "int8")
    assert not first.reused
    again = prepare_base(out, plain, "int8")
    assert again.reused
    assert again.manifest == first.manifest
    forced = prepare_base(out, plain, "int8", force=True)
    assert not forced.reused
    assert forced.manifest.digest == first.manifest.digest
    other = prepare_base(out, plain, "none")
    assert (other.reused, other.manifest.scheme) == (False, NONE)
    assert [item.name for item in tmp_path.iterdir()] == ["base"]


def test_a_damaged_base_is_built_again(plain: str, tmp_path: Path) -> None:
    """Changed weights, or a manifest that cannot be read, never pass for a finished base."""
    out = tmp_path / "base"
    digest = prepare_base(out, plain, "none").manifest.digest
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    rebuilt = prepare_base(out, plain, "none")
    assert (rebuilt.reused, rebuilt.manifest.digest) == (False, digest)
    (out / BASE_MANIFEST).write_text("{")
    assert not prepare_base(out, plain, "none").reused


def test_a_directory_of_somebody_else_is_not_touched(plain: str, tmp_path: Path) -> None:
    """An existing directory without our manifest is refused, with or without --force; an empty one is taken."""
    (tmp_path / "thesis.txt").write_text("precious")
    for force in (False, True):
        with pytest.raises(BaseModelError, match="was not made by"):
            prepare_base(tmp_path, plain, "none", force=force)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not prepare_base(empty, plain, "none").reused


def test_a_failure_leaves_nothing(plain: str, tmp_path: Path) -> None:
    """An interrupted build leaves nothing at the final path."""

    def stop(what: str, _done: int, _of: int) -> None:
        if what == "quantising":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_base(tmp_path / "base", plain, "int8", on_step=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_source_is_kept_as_it_is(int8: Path, tmp_path: Path) -> None:
    """Auto copies a source that is quantised already; asking for another scheme is an error."""
    kept = prepare_base(tmp_path / "kept", str(int8))
    assert kept.manifest.scheme == "compressed-tensors"
    assert (tmp_path / "kept" / "model.safetensors").read_bytes() == (int8 / "model.safetensors").read_bytes()
    older = copytree(int8, tmp_path / "Tiny-1.5B")
    config = json.loads((older / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")  # as transformers wrote it before release 4.56
    (older / "config.json").write_text(json.dumps(config))
    manifest = prepare_base(tmp_path / "older", str(older)).manifest
    assert (manifest.dtype, manifest.name) == ("float32", "Tiny-1.5B")
    with pytest.raises(BaseModelError, match="quantised already"):
        prepare_base(tmp_path / "again", str(int8), "int4")


def test_unknown_schemes_and_missing_bases_name_what_would_be_right(int8: Path, tmp_path: Path) -> None:
    """The messages carry the wrong value and the hint the right ones."""
    with pytest.raises(BaseModelError, match=r"'int7'.*auto, none, int8, int4"):
        prepare_base(tmp_path / "x", None, "int7")
    with pytest.raises(BaseModelError, match="no base model at"):
        read_base_manifest(tmp_path / "nowhere")
    with pytest.raises(BaseModelError, match="no prepared base"):
        read_base_manifest(tmp_path)
    manifest = asdict(read_base_manifest(int8)) | {"schema_version": 2}
    (tmp_path / BASE_MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BaseModelError, match="schema version 2"):
        read_base_manifest(tmp_path)


def test_a_model_that_transformers_cannot_read_is_refused(plain: str, tmp_path: Path) -> None:
    """Weights cut short are an error about the source, and no base appears."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(plain).iterdir():
        raw = file.read_bytes()
        (broken / file.name).write_bytes(raw[: len(raw) // 2] if file.suffix == ".safetensors" else raw)
    with pytest.raises(BaseModelError, match="cannot read broken"):
        prepare_base(tmp_path / "base", str(broken), "none")
    assert not (tmp_path / "base").exists()


def test_missing_weights_are_not_made_up(plain: str, tmp_path: Path) -> None:
    """A checkpoint that lacks a layer is refused, where transformers would fill in random numbers."""
    partial = tmp_path / "partial"
    copytree(plain, partial)
    weights = load_file(partial / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"layers\.1\.mlp\.up_proj"):
        prepare_base(tmp_path / "base", str(partial), "none")


def test_a_family_that_runs_in_bfloat16_alone_is_prepared_in_it(tmp_path: Path) -> None:
    """The CPU's kernel for the gated delta rule takes nothing else, and ended the engine at the first request."""
    family = next(family for family in FAMILIES if str(family) == "qwen3_next")
    source = build_source(family, tmp_path / "source")
    manifest = prepare_base(tmp_path / "base", str(source), "int8").manifest
    assert (manifest.dtype, manifest.scheme) == ("bfloat16", INT8)
    assert "bfloat16 alone" in manifest.reason


def test_the_head_is_one_that_a_cpu_packs_in_bfloat16(plain: str, int8: Path) -> None:
    """Its numbers are rounded, by at most a step of bfloat16; the source's own are not such numbers."""
    before, after = (
        load_file(path / "model.safetensors")["model.embed_tokens.weight"] for path in (Path(plain), int8)
    )
    assert pack_matrix(before) is None
    assert pack_matrix(after) is not None
    assert torch.all((after - before).abs() <= before.abs() * 2**-8)


def test_a_gguf_file_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tokenizer, configuration and weights of the default base, and the reader is gguf's own again after."""
    read: list[object] = []
    reader = gguf.GGUFReader

    def counting(*path: Any) -> Any:
        read.append(path)
        return reader(*path)

    monkeypatch.setattr(gguf, "GGUFReader", counting)
    model, tokenizer = load_base(find_base(None), torch.float32)
    assert len(read) == 1
    assert gguf.GGUFReader is counting
    assert model.config.vocab_size == len(tokenizer)
