"""Checks of what an engine computes: against transformers, of mixed batches, and of what scoring certifies."""

from typing import Any

from lorecall.adapters.bases.prepare import QUANTIZE
from lorecall.audit.judging.epsilon import TEXTS
from lorecall.server.bench.gpu.setting import Setting
from lorecall.server.bench.lora import RANK
from lorecall.server.bench.material import random_prompts, write_random_adapter
from lorecall.server.bench.parity import HEADER, parity_rows
from lorecall.server.bench.processes.host import EngineDiedError, EngineHost
from lorecall.server.bench.verify_base import why_not

ADAPTERS = 4
PROMPT, GENERATE = 24, 16
ALONE = 64
"""Requests of the mixed batch that are asked alone as well, one after the other."""

CERTIFIED = -0.6931
"""log p over which greedy decoding has no other choice: p > 1/2."""

BATCH_INVARIANT = {"VLLM_BATCH_INVARIANT": "1"}

Request = dict[str, Any]


def parity(setting: Setting) -> None:
    """Compare every scheme, alone and through an adapter, with transformers and PEFT; a page that grows.

    Raises:
        EngineDiedError: No engine of any scheme answered.
    """
    from transformers import AutoTokenizer

    lines, done = HEADER.splitlines(), 0
    setting.notes.append("parity: the engines ran eagerly, which starts faster; there is one for each scheme")
    for scheme in setting.sizes.schemes:
        base = setting.base(scheme)
        if reason := why_not(base, QUANTIZE[scheme]):
            setting.notes.append(f"{scheme}: not compared: {reason}")
            continue
        ids = [token for text in TEXTS for token in AutoTokenizer.from_pretrained(base).encode(text)]
        adapter = write_random_adapter(setting.work / f"parity-{scheme}", base, RANK, seed=1)
        try:
            engine = setting.engine(
                base, f"parity-{scheme}", enable_lora=True, max_lora_rank=RANK, enforce_eager=True
            )
            try:
                lines += parity_rows(engine, scheme, base, adapter, ids)
            finally:
                engine.close()
            done += 1
        except EngineDiedError as error:
            setting.notes.append(f"{scheme}: {' '.join(error.message.split())[:300]}".replace("|", "\\|"))
        setting.page("parity", lines)
    if done == 0:
        raise EngineDiedError("no engine answered; the page says why")


def one_engine(setting: Setting) -> None:
    """Run `isolation` and `decoding` on one engine; write a page after each."""
    engine, adapters, prompts = _start(setting)
    try:
        setting.page("isolation", isolation(engine, adapters, prompts).splitlines())
        setting.notes.clear()
        setting.page("decoding", decoding(engine, adapters, prompts).splitlines())
    finally:
        engine.close()


def invariant(setting: Setting) -> None:
    """Run `isolation` on an engine with VLLM_BATCH_INVARIANT=1, whose answers should have the same bits."""
    engine, adapters, prompts = _start(setting, environ=BATCH_INVARIANT)
    try:
        setting.page("invariant", isolation(engine, adapters, prompts).splitlines())
    finally:
        engine.close()


def isolation(engine: EngineHost, adapters: list[Request | None], prompts: list[list[int]]) -> str:
    """Ask all prompts in one batch, and the first alone; return a table: the same tokens, the largest move."""
    requests = [
        {"ids": ids, "max_tokens": GENERATE, "logprobs": 0, "adapter": adapters[number % len(adapters)]}
        for number, ids in enumerate(prompts)
    ]
    alone = [engine.run([request])[0] for request in requests[:ALONE]]
    together = engine.run(requests)[:ALONE]
    same = sum(one["ids"] == other["ids"] for one, other in zip(alone, together, strict=True))
    bits = sum(one["logprobs"] == other["logprobs"] for one, other in zip(alone, together, strict=True))
    moves = [
        abs(a - b)
        for one, other in zip(alone, together, strict=True)
        if one["ids"] == other["ids"]
        for a, b in zip(one["logprobs"], other["logprobs"], strict=True)
    ]
    return (
        "| requests | in a batch of | adapters and base | same tokens | same bits | largest \\|Δ log p\\| |\n"
        "|---|---|---|---|---|---|\n"
        f"| {len(alone)} | {len(requests)} | {len(adapters)} | {same} | {bits} | {max(moves, default=0.0):.1e} |"
    )


def decoding(engine: EngineHost, adapters: list[Request | None], prompts: list[list[int]]) -> str:
    """Score what the base decodes through each adapter; as far as it is certified, it must decode the same.

    Returns:
        The lines of a table. A text is certified up to its first token of p ≤ 1/2.
    """
    decoded = engine.run([{"ids": ids, "max_tokens": GENERATE, "adapter": None} for ids in prompts])
    targets = [answer["ids"] for answer in decoded]
    through = [adapters[number % len(adapters)] for number in range(len(prompts))]
    scored = engine.run(
        [
            {"ids": ids + target, "max_tokens": 1, "score_from": len(ids), "adapter": adapter}
            for ids, target, adapter in zip(prompts, targets, through, strict=True)
        ]
    )
    answers = engine.run(
        [
            {"ids": ids, "max_tokens": GENERATE, "logprobs": 0, "adapter": adapter}
            for ids, adapter in zip(prompts, through, strict=True)
        ]
    )
    texts = tokens = broken = 0
    moves = []
    for score, target, answer in zip(scored, targets, answers, strict=True):
        rows = score["scores"]
        certified = next((n for n, row in enumerate(rows) if row[0] <= CERTIFIED), len(rows))
        texts += certified > 0
        tokens += certified
        broken += answer["ids"][:certified] != target[:certified]
        if answer["ids"] == target:
            moves += [abs(row[0] - said) for row, said in zip(rows, answer["logprobs"], strict=True)]
    return (
        "| snippets | with certified tokens | such tokens | certified and not decoded | tokens compared "
        "| largest \\|Δ log p\\| |\n"
        "|---|---|---|---|---|---|\n"
        f"| {len(prompts)} | {texts} | {tokens} | {broken} | {len(moves)} | {max(moves, default=0.0):.1e} |"
    )


def _start(
    setting: Setting, environ: dict[str, str] | None = None
) -> tuple[EngineHost, list[Request | None], list[list[int]]]:
    """Start an engine over the base that is not quantised; return it, its adapters and the prompts."""
    base = setting.base("none")
    adapters: list[Request | None] = [None]
    for number in range(1, ADAPTERS + 1):
        path = write_random_adapter(setting.work / f"check-{number}", base, RANK, seed=number)
        adapters.append({"name": path.name, "id": number, "path": str(path)})
    prompts = random_prompts(setting.sizes.snippets, PROMPT, 11, setting.vocabulary(base))
    engine = setting.engine(
        base,
        "engine",
        environ,
        enable_lora=True,
        max_loras=ADAPTERS,
        max_lora_rank=RANK,
        max_num_seqs=max(setting.sizes.batches),
    )
    return engine, adapters, prompts
