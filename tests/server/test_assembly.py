"""A server is wired as its settings say."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.server.assembly import make_pipeline
from lorecall.server.settings import ServerSettings

from tests.adapters import spoiling


def client(device: str, model_type: str = "llama") -> Any:
    """VLLM's client of an engine, as far as the pipeline asks it."""
    config = SimpleNamespace(lora_config=None, device_config=SimpleNamespace(device_type=device))
    model = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type))
    return SimpleNamespace(vllm_config=config, model_config=model, get_tokenizer=lambda: None)


@pytest.mark.parametrize(
    ("device", "model_type", "scored", "templates"),
    [("cpu", "llama", True, "all"), ("cuda", "llama", False, "all"), ("cpu", "gpt_oss", True, "none")],
)
def test_the_engine_says_what_it_can(
    tmp_path: Path, device: str, model_type: str, templates: str, *, scored: bool
) -> None:
    """On a GPU adapters of the head are not scored; for gpt-oss vLLM renders no template."""
    facts = read_base_facts(spoiling.write_base(tmp_path / "base"))
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    settings = ServerSettings(store=tmp_path / "store", adapter_templates="all")
    try:
        made = make_pipeline(registry, facts, client(device, model_type), settings, keyed=False)
    finally:
        registry.close()
    assert made._limits.vocabulary_scored is scored
    assert made._templates == templates


@pytest.mark.parametrize("keyed", [True, False])
def test_the_settings_say_where_adapters_may_come_from(tmp_path: Path, *, keyed: bool) -> None:
    """Prefixes and roots are allowed; other places, the store and the shared folder are not."""
    models, store = tmp_path / "models", tmp_path / "models/store"
    spoiling.write_adapter(models / "acme")
    settings = ServerSettings(
        store=store,
        sources="hf://acme/*, s3://bucket/acme/",
        local_roots=str(models),
        shared="memory://shelf/of",
    )
    engine = client("cpu")
    facts = read_base_facts(spoiling.write_base(tmp_path / "base"))
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    try:
        sources = make_pipeline(registry, facts, engine, settings, keyed=keyed)._sources
        for source in ("hf://acme/model@v1", "s3://bucket/acme/model", str(models / "acme")):
            sources.check(source)
        for source in (
            "hf://other/model", "s3://bucket/other", "s3://bucket", str(tmp_path),
            "memory://shelf/of/" + "a" * 64, str(store), str(store / ("a" * 64)), "https://example.org/adapter.zip",
        ):  # fmt: skip
            with pytest.raises(RefusedError, match="does not read"):
                sources.check(source)
    finally:
        registry.close()
