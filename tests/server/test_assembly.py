"""A server is wired as its settings say."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.server.assembly import make_pipeline, served_modules
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


@pytest.mark.parametrize(
    ("device", "stated", "served"),
    [("cpu", None, None), ("cuda", None, False), ("cpu", ["q_proj"], True), ("cuda", ["q_proj"], True)],
)
def test_a_gpu_refuses_what_it_puts_no_adapter_on(
    device: str,
    stated: list[str] | None,
    served: bool | None,  # noqa: FBT001  # a parameter
    tmp_path: Path,
) -> None:
    """An adapter of lm_head is refused with the reason, before the engine would refuse it without one."""
    facts = read_base_facts(spoiling.write_base(tmp_path / "base"))
    config = SimpleNamespace(
        lora_config=SimpleNamespace(target_modules=stated), device_config=SimpleNamespace(device_type=device)
    )
    modules, why = served_modules(config, facts)
    if served is None:
        assert modules is None
        return
    assert modules is not None
    assert "q_proj" in modules
    assert not {"lm_head", "embed_tokens"} & modules
    assert ("vllm#51594" in why) is (stated is None)
