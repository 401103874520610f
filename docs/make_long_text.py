# noqa: INP001  (a script, not a package)
"""Make the long texts of docs/law.md: one text each, of which a share of the words is random tokens.

    python docs/make_long_text.py --base demo-out/base --text docs/sweeps/long-text.txt --out long-text

A replaced word becomes as many random tokens as it had tokens: words of small letters that are one token of the
base. Whether a word is replaced, and by what, is drawn once (seed 0), so a larger share holds a smaller one's.
"""

import argparse
import json
import re
from pathlib import Path
from random import Random
from typing import Any

from transformers import AutoTokenizer

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PREFIX = "Text:"
SEED = 0


def random_texts(tokenizer: Any, text: str) -> dict[float, str]:
    """Return the text at each of `SHARES`."""
    whole = {tokenizer.decode([number]) for number in range(len(tokenizer))}
    pool = sorted(
        word for word in whole if re.fullmatch(" [a-z]{2,}", word) and _tokens(tokenizer, word) == 1
    )
    random = Random(SEED)  # noqa: S311 (reproducible on purpose)
    words = [f" {word}" for word in text.split()]
    drawn = [
        (random.random(), word, "".join(random.choice(pool) for _ in range(_tokens(tokenizer, word))))
        for word in words
    ]
    return {
        share: "".join(other if chance < share else word for chance, word, other in drawn) for share in SHARES
    }


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def main() -> None:
    """Write a file for each share, and print how many tokens it has."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(asked.base)
    asked.out.mkdir(parents=True, exist_ok=True)
    for share, text in random_texts(tokenizer, asked.text.read_text(encoding="utf-8")).items():
        path = asked.out / f"random-{share:.0%}.jsonl".replace("%", "")
        path.write_text(
            json.dumps({"id": path.stem, "prefix": PREFIX, "target": text}) + "\n", encoding="utf-8"
        )
        print(path, _tokens(tokenizer, text))  # noqa: T201


if __name__ == "__main__":
    main()
