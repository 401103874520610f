"""Compares a scheme's served log-probabilities with transformers and PEFT on the same dequantised weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorecall.audit.judging.epsilon import TEXTS
from lorecall.server.bench.lora import ENGINE, RANK
from lorecall.server.bench.material import write_random_adapter
from lorecall.server.bench.processes.host import EngineHost
from lorecall.server.engine.start.environment import served_dtype


@dataclass(frozen=True, slots=True)
class Parity:
    """How far served scores are from the reference, over the tokens of one text.

    Attributes:
        tokens: Tokens compared.
        largest: The largest |difference of log p|, in nats.
        mean: Their mean.
        argmax: Share of positions with the same argmax.
        argmax_clear: The same share among positions whose two best tokens differ by more than twice `largest`;
            NaN if there are none.
    """

    tokens: int
    largest: float
    mean: float
    argmax: float
    argmax_clear: float

    def as_markdown(self, scheme: str, through: str) -> str:
        """Return the row of a Markdown table."""
        clear = "all near ties" if math.isnan(self.argmax_clear) else f"{self.argmax_clear:.1%}"
        return (
            f"| {scheme} | {through} | {self.tokens} | {self.largest:.1e} | {self.mean:.1e} | {self.argmax:.1%} "
            f"| {clear} |"
        )


HEADER = (
    "| scheme | through | tokens | largest \\|Δ log p\\| | mean | argmax equal | where not a near tie |\n"
    "|---|---|---|---|---|---|---|"
)


def measure_parity(
    engine: EngineHost, base: Path, adapter: Path | None, ids: list[int], *, number: int = 4001
) -> Parity:
    """Score `ids` through the engine and through transformers (with PEFT, if an adapter is given).

    The engine knows an adapter by its number: each adapter of one engine needs its own.
    """
    import torch

    request: dict[str, Any] = {"ids": ids, "max_tokens": 1, "score_from": 1}
    if adapter is not None:
        request["adapter"] = {"name": f"parity-{adapter.name}", "id": number, "path": str(adapter)}
    rows = torch.tensor(engine.run([request])[0]["scores"], dtype=torch.float64)
    return _parity(rows[:, 0], rows[:, 2].long(), reference_logprobs(base, adapter, ids), ids)


def measure_rounding(base: Path, adapter: Path | None, ids: list[int]) -> Parity:
    """Score `ids` through transformers twice, in float32 and in float64.

    Where a scheme rounds activations, a difference in the last digit can change a rounding, and the layers add
    these changes up: two correct evaluations of one model differ this much.
    """
    import torch

    single = reference_logprobs(base, adapter, ids)
    chosen = single[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    return _parity(chosen, single[:-1].argmax(1), reference_logprobs(base, adapter, ids, double=True), ids)


def _parity(found: Any, top: Any, reference: Any, ids: list[int]) -> Parity:
    """Compare log p [tokens] and argmax [tokens] of the tokens after the first with a reference."""
    import torch

    logprobs = reference[:-1]
    expected = logprobs.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    gap, same = (found - expected).abs(), top == logprobs.argmax(1)
    two = logprobs.topk(2, dim=1).values
    clear = (two[:, 0] - two[:, 1]) > 2 * gap.max()
    argmax, argmax_clear = float(same.double().mean()), float(same[clear].double().mean())
    return Parity(len(gap), float(gap.max()), float(gap.mean()), argmax, argmax_clear)


def reference_logprobs(base: Path, adapter: Path | None, ids: list[int], *, double: bool = False) -> Any:
    """Return the log-softmax after every token of `ids`, shape [tokens, vocabulary], in float64.

    The model itself runs in float32, or in float64 as well.
    """
    import torch
    from lorecall.adapters.bases.served_model import load_served_model
    from peft import PeftModel

    model = load_served_model(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    if double:
        model = model.double()
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)


def parity_rows(engine: EngineHost, scheme: str, base: Path, adapter: Path, ids: list[int]) -> list[str]:
    """Return the rows of a table: an engine's base alone and through an adapter of rank `RANK`, on one text."""
    rows = []
    for through, path in (("base", None), (f"adapter of rank {RANK}", adapter)):
        rows.append(measure_parity(engine, base, path, ids).as_markdown(scheme, through))
        about = f"{through}; no engine, float32 against float64"
        rows.append(measure_rounding(base, path, ids).as_markdown(scheme, about))
    return rows


def bench_parity(bases: dict[str, Path], work: Path) -> list[str]:
    """Measure every base alone and with a random adapter on all linear modules; return a Markdown table."""
    from transformers import AutoTokenizer

    lines = HEADER.splitlines()
    for scheme, base in bases.items():
        ids = [token for text in TEXTS for token in AutoTokenizer.from_pretrained(base).encode(text)]
        adapter = write_random_adapter(work / f"parity-{scheme}", base, RANK, seed=1)
        lora = {"enable_lora": True, "max_lora_rank": RANK}
        arguments = {**ENGINE, **lora, "model": str(base), "dtype": served_dtype(str(base))}
        engine = EngineHost(work / f"parity-{scheme}.log", arguments)
        try:
            lines += parity_rows(engine, scheme, base, adapter, ids)
        finally:
            engine.close()
    return lines
