"""What adapters cost in prefill and decode, on an engine as users run it."""

from collections.abc import Iterator
from functools import partial

from lorecall.server.bench.gpu.setting import Setting
from lorecall.server.bench.lora import RANK, Load, make_adapters, rate
from lorecall.server.bench.paired import Row, compare, measure
from lorecall.server.bench.report import rows_table

LARGEST_TARGET = 0.90
"""Asked of decode at the largest batch; stock vLLM is reported at 0.56 to 0.66 there."""


def lora(setting: Setting) -> None:
    """Compare the base alone with 1, 8 and 32 adapters in one batch; a page that grows with each batch size."""
    sizes, base = setting.sizes, setting.base("speed")
    most = sizes.adapters[-1]
    dtype = "bfloat16" if sizes.shape != "tiny" else "float32"
    adapters = make_adapters(setting.work, base, most, dtype)
    engine = setting.engine(
        base,
        "engine",
        enable_lora=True,
        max_loras=most,
        max_lora_rank=RANK,
        max_num_seqs=max(sizes.batches),
    )
    rows: list[Row] = []
    try:
        for load in _loads(setting):
            variants = {"base alone": partial(rate, engine, load, [], setting.vocabulary(base))}
            for count in sizes.adapters:
                variants[f"{count} adapters"] = partial(
                    rate, engine, load, adapters[:count], setting.vocabulary(base)
                )
            rates = measure(sizes.rounds, variants)
            phase = "prefill" if load.generate == 1 else "decode"
            unit = f"{phase} tok/s, {load.requests} requests of {load.prompt} tokens"
            target = LARGEST_TARGET if phase == "decode" and load.requests == max(sizes.batches) else None
            rows += [
                compare(rates, f"{count} adapters", "base alone", unit, target) for count in sizes.adapters
            ]
            setting.page("lora", rows_table(rows))
    finally:
        engine.close()


def _loads(setting: Setting) -> Iterator[Load]:
    for requests in setting.sizes.batches:
        yield Load(requests, 16, setting.sizes.generate)
    yield Load(16, min(256, setting.sizes.context // 2), 1)
