"""Every scheme that we offer, adapter on top, against transformers and PEFT on the same dequantised weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lorecall.adapters.bases.scheme_choice import detect_capabilities
from lorecall.adapters.convert.convert import convert_adapter
from lorecall.server.bench.parity import measure_parity
from lorecall.server.bench.processes.host import EngineHost
from lorecall.server.engine.start.environment import served_dtype

from tests.adapters.people_corpus import CORPUS
from tests.packed4 import build_packed_base
from tests.tiny import LINEAR_MODULES, VOCABULARY, build_tiny_adapter

LENGTH = 120
BOUNDS = {"none": (1e-3, 1e-4), "int8-w8a8": (0.25, 0.02), "int4-w4a16": (0.5, 0.05)}
"""By scheme: largest and mean |difference of log p|. INT8 rounds activations, and a tie can round either way;
the INT4 kernel of the CPU works in bfloat16 only."""


@pytest.mark.engine
@pytest.mark.parametrize("scheme", list(BOUNDS))
def test_served_scores_equal_the_reference(
    scheme: str,
    request: pytest.FixtureRequest,
    start_host: Callable[..., EngineHost],
    tiny: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Mean and largest difference within bounds, argmax the same wherever it is not a near tie."""
    if scheme == "int4-w4a16" and not detect_capabilities().avx512:
        pytest.skip("this CPU has no INT4 kernel in vLLM")
    base = tiny(scheme)
    shared = {"none": "plain_engine", "int8-w8a8": "int8_engine"}.get(scheme)
    engine = request.getfixturevalue(shared) if shared else start_host(base, dtype="bfloat16")
    adapter = build_tiny_adapter(tmp_path / f"of-{scheme}", base, rank=8, seed=21)
    ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
    for path in (None, adapter):
        found = measure_parity(engine, base, path, ids)
        largest, mean = BOUNDS[scheme]
        assert found.largest < largest
        assert found.mean < mean
        assert found.argmax_clear == 1.0


@pytest.mark.engine
@pytest.mark.filterwarnings(
    "ignore:.*(eva_config|did not match|missing adapter keys|unexpected)"
)  # PEFT on EVA
def test_what_people_bring_equals_the_reference(
    plain_engine: EngineHost, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """A part of a fused projection, ranks of single modules, and what was converted, as PEFT applies each."""
    base = tiny("none")
    ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
    largest, mean = BOUNDS["none"]
    part = ("v_proj",), ("up_proj",), ("k_proj", "gate_proj")
    folders = [build_tiny_adapter(tmp_path / "-".join(one), base, rank=8, modules=one) for one in part]
    for name in ("560 patterns of EVA", "MLX", "rank pattern under a large r", "more modules than named"):
        folder = build_tiny_adapter(
            tmp_path / name, base, modules=("q_proj", "v_proj", "up_proj", "down_proj")
        )
        CORPUS[name].change(folder)
        if CORPUS[name].converts:
            convert_adapter(folder, tmp_path / f"{name}, plain")
            folder = tmp_path / f"{name}, plain"
        folders.append(folder)
    for number, folder in enumerate(folders, 4100):
        found = measure_parity(plain_engine, base, folder, ids, number=number)
        assert found.largest < largest, folder.name
        assert found.mean < mean, folder.name
        assert found.argmax_clear == 1.0


@pytest.mark.engine
@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize("scheme", ["none", "int8-w8a8"])
@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers|tied)")
def test_head_and_embeddings_equal_the_reference(
    scheme: str, request: pytest.FixtureRequest, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """Scores and decodes through adapters of the head and the embeddings, alone and beside the base and others.

    So the server scores them on a CPU: `AdapterLimits.vocabulary_scored`.
    """
    base = tiny(scheme)
    engine = request.getfixturevalue({"none": "plain_engine", "int8-w8a8": "int8_engine"}[scheme])
    ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
    kinds = {
        "head": ("lm_head",),
        "head-and-linear": (*LINEAR_MODULES, "lm_head"),
        "embeddings": ("embed_tokens",),
        "all": (*LINEAR_MODULES, "lm_head", "embed_tokens"),
    }
    requests = []
    for number, (name, modules) in enumerate(kinds.items(), 4200):
        folder = build_tiny_adapter(tmp_path / name, base, rank=8, seed=number, modules=modules)
        found = measure_parity(engine, base, folder, ids, number=number)
        largest, mean = BOUNDS[scheme]
        assert found.largest < largest, name
        assert found.mean < mean, name
        assert found.argmax_clear == 1.0
        adapter = {"name": f"parity-{name}", "id": number, "path": str(folder)}
        requests.append({"ids": ids[:50], "max_tokens": 20, "logprobs": 0, "adapter": adapter})
    requests.append({"ids": ids[:50], "max_tokens": 20, "logprobs": 0, "adapter": None})
    for asked, answer in zip(requests, engine.run(requests), strict=True):
        grown = {**asked, "ids": asked["ids"] + answer["ids"], "max_tokens": 1, "score_from": 50}
        alone = engine.run([grown])[0]["scores"]
        together = engine.run([grown, *requests])[0]["scores"]
        for scores in (alone, together):
            decoded = BOUNDS[scheme][0]
            assert [row[0] for row in scores] == pytest.approx(answer["logprobs"], abs=decoded)


@pytest.mark.engine
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_other_peoples_formats_are_served(
    method: str, start_host: Callable[..., EngineHost], tmp_path: Path
) -> None:
    """GPTQ and AWQ bases come out as the plain base of the same dequantised weights, adapter on top."""
    if not detect_capabilities().avx512:
        pytest.skip("this CPU has no INT4 kernel in vLLM")
    packed, plain = build_packed_base(tmp_path, method)
    engine = start_host(packed, dtype=served_dtype(str(packed)))
    adapter = build_tiny_adapter(tmp_path / "adapter", plain, rank=8, seed=21)
    ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
    largest, mean = BOUNDS["int4-w4a16"]
    for path in (None, adapter):
        found = measure_parity(engine, plain, path, ids)
        assert found.largest < largest
        assert found.mean < mean
        assert found.argmax_clear == 1.0
