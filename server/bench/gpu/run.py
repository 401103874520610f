"""Runs one stage in this process: `python -m lorecall.server.bench.gpu.run STAGE --work DIR --out DIR`."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lorecall.adapters.core.errors import LorecallError
from lorecall.server.bench.gpu import bases, checks, serving, speed, swap
from lorecall.server.bench.gpu.setting import REHEARSAL, Setting, Sizes
from lorecall.server.engine.start.environment import prepare_environment

STAGES: dict[str, Callable[[Setting], None]] = {
    "prepare": bases.prepare,
    "checks": checks.one_engine,
    "parity": checks.parity,
    "lora": speed.lora,
    "overhead": serving.overhead,
    "swap": swap.swap,
    "scoring": serving.scoring,
    "registered": serving.registered,
    "invariant": checks.invariant,
}


def main() -> None:
    """Run a stage; its pages are Markdown files in its folder, and what went wrong is the last line of stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--attention-backend", default="")
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # or engines would be left behind
    prepare_environment()
    sizes = REHEARSAL if given.rehearse else Sizes()
    try:
        STAGES[given.stage](Setting(given.work, given.out, sizes, given.attention_backend))
    except LorecallError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
