"""Every scheme that we offer, adapter on top, against transformers and PEFT on the same dequantised weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lorecall.adapters.capabilities import detect_capabilities
from lorecall.adapters.served_model import load_served_model
from lorecall.server.bench.host import EngineHost
from peft import PeftModel

from tests.tiny import VOCABULARY, build_tiny_adapter

LENGTH = 120
BOUNDS = {"none": (1e-3, 1e-4), "int8-w8a8": (0.25, 0.02), "int4-w4a16": (0.5, 0.05)}
"""By scheme: largest and mean |difference of log p|. INT8 rounds activations, and a tie can round either way;
the INT4 kernel of the CPU works in bfloat16 only."""


def reference_logprobs(base: Path, adapter: Path | None, ids: list[int]) -> torch.Tensor:
    """Return log p of every token after the first, by transformers and PEFT, and the argmax before it."""
    model = load_served_model(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)


@pytest.mark.engine
@pytest.mark.parametrize("scheme", list(BOUNDS))
def test_served_scores_equal_the_reference(
    scheme: str,
    request: pytest.FixtureRequest,
    start_host: Callable[..., EngineHost],
    tiny: Callable[[str], Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Mean and largest difference within bounds, argmax the same wherever it is not a near tie."""
    if scheme == "int4-w4a16" and not detect_capabilities().avx512:
        pytest.skip("this CPU has no INT4 kernel in vLLM")
    base = tiny(scheme)
    shared = {"none": "plain_engine", "int8-w8a8": "int8_engine"}.get(scheme)
    engine = request.getfixturevalue(shared) if shared else start_host(base, dtype="bfloat16")
    adapter = build_tiny_adapter(tmp_path, base, rank=8, seed=21)
    ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
    for path in (None, adapter):
        served: dict[str, Any] = {"ids": ids, "max_tokens": 1, "score_from": 1}
        if path is not None:
            served["adapter"] = {"name": f"parity-{scheme}", "id": 300, "path": str(path)}
        rows = torch.tensor(engine.run([served])[0]["scores"], dtype=torch.float64)
        logprobs = reference_logprobs(base, path, ids)[:-1]
        expected = logprobs.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
        gap = (rows[:, 0] - expected).abs()
        largest, mean = BOUNDS[scheme]
        record_property(
            f"{scheme}, {'adapter' if path else 'base'}", f"max {gap.max():.1e} mean {gap.mean():.1e}"
        )
        assert gap.max() < largest
        assert gap.mean() < mean
        top = logprobs.topk(2, dim=1).values
        clear = (top[:, 0] - top[:, 1]) > 2 * largest
        assert (rows[clear, 2].long() == logprobs.argmax(1)[clear]).all()
