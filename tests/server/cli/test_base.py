"""`lorecall base prepare` as a person runs it: output, exit codes and what is left on disk."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lorecall.adapters.bases import prepare as prepare_module
from lorecall.adapters.bases.prepare import BASE_MANIFEST, read_base_manifest
from lorecall.adapters.core.errors import BaseModelError
from lorecall.server.bench import verify_base
from lorecall.server.cli import base
from lorecall.server.cli.main import app
from lorecall.server.engine.start import families
from typer.testing import CliRunner, Result

from tests.engines import Engines
from tests.families.models import FAMILIES, Family, build_source
from tests.packed4 import build_packed_base
from tests.tiny import build_tiny_base

LFM2, QWEN3_5 = (
    next(family for family in FAMILIES if family.model_type == name) for name in ("lfm2", "qwen3_5")
)


def prepare(*arguments: str, verify: str = "--no-verify") -> Result:
    return CliRunner().invoke(app, ["base", "prepare", *arguments, verify])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A plain model directory."""
    path = build_tiny_base(tmp_path_factory.mktemp("source") / "tiny-lm")
    (path / BASE_MANIFEST).unlink()
    return str(path)


def test_a_base_is_prepared_once(source: str, tmp_path: Path) -> None:
    """The first run says what it made and why, the second that it was there; stderr stays empty."""
    out = tmp_path / "base"
    arguments = ("--from", source, "--quantize", "int8", "--out", str(out), "--no-verify")
    command = [str(Path(sys.executable).parent / "lorecall"), "base", "prepare", *arguments]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith(f"Prepared {out}: tiny-lm, int8-w8a8\n")
    assert "asked for" in first.stdout
    assert first.stdout.endswith("  not verified     --no-verify\n")
    assert read_base_manifest(out).digest in first.stdout
    again = prepare(*arguments)
    assert (again.exit_code, again.stdout) == (0, first.stdout.replace("Prepared", "Reused"))


def test_auto_chooses_and_says_why(source: str, tmp_path: Path) -> None:
    """Without a scheme the machine decides; its reason is printed and kept."""
    out = tmp_path / "base"
    result = prepare("--from", source, "--out", str(out))
    manifest = read_base_manifest(out)
    assert result.exit_code == 0
    assert manifest.scheme in result.stdout
    assert manifest.reason in result.stdout
    assert manifest.reason != "asked for"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--from", "/no/such/model"), "neither a directory nor a hub id"),
     (("--quantize", "int3"), "unknown quantisation 'int3'"),
     (("--from", "{empty}"), "no config.json")],
)  # fmt: skip
def test_bad_input_exits_with_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """The error names the value; nothing is made."""
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = [argument.format(empty=empty) for argument in arguments]
    result = prepare(*filled, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, BaseModelError)
    assert message in str(result.exception)
    assert result.exception.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_verified_says_why(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On by default up to a size; asked for where it is impossible, it is an error and nothing is made."""
    monkeypatch.setattr(base, "VERIFIED_BELOW", 1000)
    result = CliRunner().invoke(app, ["base", "prepare", "--from", source, "--out", str(tmp_path / "base")])
    assert "not verified     0.0B parameters: --verify asks for it" in result.stdout
    packed, _ = build_packed_base(tmp_path, "gptq")
    result = prepare("--from", str(packed), "--out", str(tmp_path / "packed"), verify="--verify")
    assert isinstance(result.exception, BaseModelError)
    assert "cannot verify it here: there is no reference for gptq" in str(result.exception)
    assert not (tmp_path / "packed").exists()


@pytest.mark.engine
def test_a_verified_base_says_how_near_it_is(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's numbers are transformers'; a reused base is not asked again, one that was not verified is."""
    out = tmp_path / "base"
    arguments = ("--from", source, "--quantize", "int8", "--out", str(out))
    assert prepare(*arguments).exit_code == 0
    result = prepare(*arguments, verify="--verify")
    assert result.stdout.startswith("Reused")
    assert "nats of transformers' on average" in result.stdout
    found = read_base_manifest(out).verified
    assert found is not None
    assert 0 < found["mean"] < found["allowed"]
    assert found["tokens"] > 500
    monkeypatch.setattr(verify_base, "verify_base", None)  # would fail if it were asked again
    assert prepare(*arguments, verify="--verify").exit_code == 0


@pytest.mark.parametrize("architecture", ["Lfm2ForCausalLM", "Qwen3_5ForConditionalGeneration"])
def test_what_cannot_be_served_here_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """The class, and that of a multimodal model's text model, before the minutes of quantising."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "vllm.model_executor.models.qwen3_5", raising=False)
    monkeypatch.setattr(prepare_module, "load_base", None)  # would fail if it were read
    family = LFM2 if architecture == "Lfm2ForCausalLM" else QWEN3_5
    source = build_source(family, tmp_path / "source")
    assert architecture in (source / "config.json").read_text()
    said = {
        LFM2: "depend on the other requests of a batch",
        QWEN3_5: r"Qwen3_5ForCausalLM needs .*torchvision",
    }
    result = CliRunner().invoke(app, ["base", "prepare", "--from", str(source), "--out", str(tmp_path / "b")])
    assert isinstance(result.exception, BaseModelError)
    assert re.search(said[family], str(result.exception))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("scheme", ["none", "int8"])
@pytest.mark.parametrize(("model_type", "name"), [("gpt2", "GPT2LMHeadModel"), ("mamba", "MambaForCausalLM")])
def test_without_a_verification_a_class_without_adapters_is_refused_still(
    model_type: str, name: str, scheme: str, tmp_path: Path
) -> None:
    """In the sentence that says why, whatever the scheme: that GPT-2 has no linear layers is not it."""
    source = str(build_source(Family(model_type), tmp_path / "source"))
    result = prepare("--from", source, "--quantize", scheme, "--out", str(tmp_path / "base"))
    assert isinstance(result.exception, BaseModelError)
    assert result.exception.message == f"{name}: vLLM applies no adapters to models of this class"
    assert not (tmp_path / "base").exists()


def test_without_a_verification_a_base_for_another_machine_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LFM2 for a GPU, and Qwen3.5 for where torchvision is: what is wrong is this machine's alone."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for family in (LFM2, QWEN3_5):
        source = build_source(family, tmp_path / f"{family.model_type}-source")
        out = tmp_path / family.model_type
        assert prepare("--from", str(source), "--quantize", "none", "--out", str(out)).exit_code == 0
        assert read_base_manifest(out).verified is None


@pytest.mark.engine
def test_a_family_that_the_engine_computes_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: Engines
) -> None:
    """LFM2, as if it were not known: the refusal says by how much; nothing is left on disk."""
    monkeypatch.setattr(families, "WRONG", {})
    monkeypatch.setattr(verify_base, "EngineHost", engines.start)
    source = build_source(LFM2, tmp_path / "lfm2")
    result = prepare("--from", str(source), "--out", str(tmp_path / "base"), verify="--verify")
    assert isinstance(result.exception, BaseModelError)
    assert "the engine computes this model wrongly" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["lfm2"]
