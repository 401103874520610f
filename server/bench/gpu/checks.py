"""Two checks on one engine: requests of a mixed batch answer as alone, and what scoring certifies is decoded.

Run as `python -m lorecall.server.bench.gpu.checks isolation|decoding --base DIR --out DIR`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.server.bench.lora import ENGINE, RANK
from lorecall.server.bench.material import random_prompts, write_random_adapter
from lorecall.server.bench.processes.host import EngineHost
from lorecall.server.engine.start.environment import prepare_environment, served_dtype

ADAPTERS = 4
PROMPT, GENERATE = 24, 16
CERTIFIED = -0.6931
"""log p over which greedy decoding has no other choice: p > 1/2."""

Request = dict[str, Any]


def isolation(engine: EngineHost, adapters: list[Request | None], prompts: list[list[int]]) -> str:
    """Ask each prompt alone and all in one batch; return the lines of a table: the same tokens, largest move."""
    requests = [
        {"ids": ids, "max_tokens": GENERATE, "logprobs": 0, "adapter": adapters[number % len(adapters)]}
        for number, ids in enumerate(prompts)
    ]
    alone = [engine.run([request])[0] for request in requests]
    together = engine.run(requests)
    same = sum(one["ids"] == other["ids"] for one, other in zip(alone, together, strict=True))
    bits = sum(one["logprobs"] == other["logprobs"] for one, other in zip(alone, together, strict=True))
    moves = [
        abs(a - b)
        for one, other in zip(alone, together, strict=True)
        if one["ids"] == other["ids"]
        for a, b in zip(one["logprobs"], other["logprobs"], strict=True)
    ]
    return (
        "| requests | adapters and base | same tokens as alone | same bits | largest \\|Δ log p\\| |\n"
        "|---|---|---|---|---|\n"
        f"| {len(requests)} | {len(adapters)} | {same} | {bits} | {max(moves, default=0.0):.1e} |"
    )


def decoding(engine: EngineHost, adapters: list[Request | None], prompts: list[list[int]]) -> str:
    """Score what the base decodes through each adapter; where all tokens are certified, it must decode the same.

    Returns:
        The lines of a table.
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
    certified = broken = 0
    moves = []
    for score, target, answer in zip(scored, targets, answers, strict=True):
        rows = score["scores"]
        if all(row[0] > CERTIFIED for row in rows):
            certified += 1
            broken += answer["ids"] != target
        if answer["ids"] == target:
            moves += [abs(row[0] - said) for row, said in zip(rows, answer["logprobs"], strict=True)]
    return (
        "| snippets | certified | certified and not decoded | tokens compared | largest \\|Δ log p\\| |\n"
        "|---|---|---|---|---|\n"
        f"| {len(prompts)} | {certified} | {broken} | {len(moves)} | {max(moves, default=0.0):.1e} |"
    )


CHECKS = {"isolation": isolation, "decoding": decoding}


def main() -> None:
    """Start an engine, run one check, and write its table as a page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--snippets", type=int, default=512)
    given = parser.parse_args()
    prepare_environment()
    adapters: list[Request | None] = [None]
    for number in range(1, ADAPTERS + 1):
        path = write_random_adapter(given.out / f"adapter-{number}", given.base, RANK, seed=number)
        adapters.append({"name": f"adapter-{number}", "id": number, "path": str(path)})
    arguments = {
        **ENGINE,
        "model": str(given.base),
        "dtype": served_dtype(str(given.base)),
        "enable_lora": True,
        "max_loras": ADAPTERS,
        "max_lora_rank": RANK,
    }
    engine = EngineHost(given.out / "engine.log", arguments)
    try:
        prompts = random_prompts(given.snippets, PROMPT, seed=11)
        table = CHECKS[given.check](engine, adapters, prompts)
    finally:
        engine.close()
    write_whole(given.out / f"{given.check}.md", table + "\n")
    sys.stdout.write(table + "\n")


if __name__ == "__main__":
    main()
