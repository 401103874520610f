"""A server is wired as its settings say."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.server.assembly import make_pipeline
from lorecall.server.settings import ServerSettings

from tests.adapters import spoiling


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
    engine = SimpleNamespace(
        vllm_config=SimpleNamespace(lora_config=None, device_config=SimpleNamespace(device_type="cpu"))
    )
    facts = read_base_facts(spoiling.write_base(tmp_path / "base"))
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    try:
        sources = make_pipeline(registry, facts, engine, settings, frozenset(), keyed=keyed)._sources
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


@pytest.mark.parametrize(("device", "why"), [("cpu", ""), ("cuda", "vllm#51594")])
def test_a_gpu_says_why_it_puts_no_adapter_on_the_head(device: str, why: str, tmp_path: Path) -> None:
    """The refusal of such an adapter names the reason; a CPU's engine takes it."""
    engine = SimpleNamespace(
        vllm_config=SimpleNamespace(lora_config=None, device_config=SimpleNamespace(device_type=device))
    )
    facts = read_base_facts(spoiling.write_base(tmp_path / "base"))
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}")
    try:
        settings = ServerSettings(store=tmp_path / "store")
        pipeline = make_pipeline(registry, facts, engine, settings, frozenset({"q_proj"}), keyed=False)
    finally:
        registry.close()
    said = pipeline._limits.why_not_served
    assert why in said
    assert bool(why) == bool(said)
