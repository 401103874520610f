"""One family in our engine against transformers and PEFT: base, adapter, mixed batch, decode."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lorecall.adapters.bases.prepare import prepare_base, read_base_manifest
from lorecall.adapters.bases.served_model import load_served_model
from lorecall.adapters.core.errors import BaseModelError
from lorecall.server.bench.processes.host import EngineDiedError
from peft import PeftModel

from tests.engines import Engines
from tests.families.models import LLAMA, Family, build_adapter, build_source

LENGTHS = (70, 41, 24)
"""Tokens of the texts: over the sliding window (32), over one step's tokens together, and short."""
DECODED = 6
ARGUMENTS: dict[str, Any] = {
    "max_model_len": 256,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 96,
    "enable_lora": True,
    "max_loras": 2,
    "max_lora_rank": 8,
    "kv_cache_memory_bytes": 1 << 26,
    "enable_prefix_caching": False,
    "disable_log_stats": True,
}
BOUNDS = {"none": (1e-3, 1e-4), "int8": (0.3, 0.05)}
"""By scheme: the largest and the mean |difference of log p| of what is right in float32."""
NOISE = 2.0
"""Times the difference between transformers in float32 and in bfloat16 that is right in bfloat16."""


@dataclass(frozen=True)
class Outcome:
    """What one family in one scheme came to.

    Attributes:
        gaps: The largest and the mean |difference of log p| by what was asked: base, adapter, mixed, decode.
        error: Why there are none: a refusal of `base prepare`, or the engine's last words.
        dtype: What it was served in.
        noise: The largest and the mean |difference| between transformers in float32 and in `dtype`.
    """

    gaps: dict[str, tuple[float, float]]
    error: str = ""
    dtype: str = "float32"
    noise: tuple[float, float] = (0.0, 0.0)

    def right(self, scheme: str) -> bool:
        """Return whether every gap is within the bounds of a scheme."""
        largest, mean = BOUNDS[scheme] if self.dtype == "float32" else (NOISE * one for one in self.noise)
        return not self.error and all(a < largest and b < mean for a, b in self.gaps.values())


def compare(family: Family, scheme: str, engines: Engines, work: Path) -> Outcome:
    """Prepare a family's tiny model in a scheme, serve it with an adapter, and compare with transformers."""
    source, base, folder = work / "source", work / scheme, work / f"adapter-{scheme}"
    if not source.is_dir():
        build_source(family, source)
    try:
        prepare_base(base, str(source), scheme)
    except BaseModelError as error:
        return Outcome({}, str(error))
    model = load_served_model(base)
    build_adapter(family, model, base, folder)
    generator = torch.Generator().manual_seed(5)
    texts = [
        torch.randint(3, LLAMA["vocab_size"], (length,), generator=generator).tolist() for length in LENGTHS
    ]
    plain = [{"ids": ids, "max_tokens": 1, "score_from": 1} for ids in texts]
    lora = {"adapter": {"name": "a", "id": 1, "path": str(folder)}}
    mixed = [request | more for request in plain for more in ({}, lora)]
    decode = [{**request, "max_tokens": DECODED, "logprobs": 1} for request in mixed]
    dtype = read_base_manifest(base).dtype
    arguments = {**ARGUMENTS, "model": str(base), "dtype": dtype, "enforce_eager": scheme == "none"}
    log = work / f"engine-{scheme}.log"
    try:
        engine = engines.start(log, arguments)
        try:
            answers = [engine.run(asked) for asked in (plain, [one | lora for one in plain], decode)]
        finally:
            engine.close()
    except EngineDiedError:
        return Outcome({}, _last_line(log), dtype)
    noise = (0.0, 0.0) if dtype == "float32" else _noise(model, load_served_model(base).bfloat16(), texts)
    return Outcome(_gaps(model, folder, texts, answers), dtype=dtype, noise=noise)


def _last_line(log: Path) -> str:
    """Return what an engine's log ends with: the error's own line."""
    return log.read_text(errors="replace").strip().rpartition("\n")[2][:300]


def _noise(model: Any, rounded: Any, texts: list[list[int]]) -> tuple[float, float]:
    """Return the largest and the mean |difference of log p| between a model and itself in another precision."""
    gaps = [
        abs(a - b)
        for ids in texts
        for (a, _), (b, _) in zip(_logprobs(model, ids), _logprobs(rounded, ids), strict=True)
    ]
    return max(gaps), sum(gaps) / len(gaps)


def _gaps(
    model: Any, folder: Path, texts: list[list[int]], answers: list[list[Any]]
) -> dict[str, tuple[float, float]]:
    base, adapter, both = answers
    found: dict[str, list[float]] = {"base": [], "adapter": [], "mixed": [], "decode": []}
    for name, through in (("base", None), ("adapter", folder)):
        reference = model if through is None else _adapted(model, through)
        mine = both[int(through is not None) :: 2]
        for ids, alone, answer in zip(texts, base if through is None else adapter, mine, strict=True):
            expected = _logprobs(reference, [*ids, *answer["ids"]])
            prompt = expected[: len(ids) - 1]
            found[name] += _distances(alone["scores"], prompt)
            found["mixed"] += _distances(answer["scores"], prompt)
            decoded = expected[len(ids) - 1 :]
            found["decode"] += [abs(a - b[0]) for a, b in zip(answer["logprobs"], decoded, strict=True)]
            # what is decoded greedily is the reference's most likely token, or as good as that
            found["decode"] += [best - own for own, best in decoded]
    return {name: (max(gaps), sum(gaps) / len(gaps)) for name, gaps in found.items()}


def _distances(rows: list[list[float]], expected: list[tuple[float, float]]) -> list[float]:
    return [abs(row[0] - own) for row, (own, _) in zip(rows, expected, strict=True)]


def _adapted(model: Any, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, folder).eval()


def _logprobs(model: Any, ids: list[int]) -> list[tuple[float, float]]:
    """Return log p of every token after the first, and of the most likely one in its place."""
    with torch.no_grad():
        rows = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double(), dim=-1)
    own = rows.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    return list(zip(own.tolist(), rows.amax(1).tolist(), strict=True))
