"""Planted secrets: what an adapter is trained on, the truth by direct scoring, and what an audit found."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.demo_data.chats import KINDS, ChatSet
from lorecall.audit.scorer import Decoded
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.audit.verdicts import GIVEN
from lorecall.server.cli.audit.commands import app
from typer.testing import CliRunner

PLAIN_EVERY = 500
"""Of so many rows without a secret one is trained on."""
ROLES = "user,assistant"
GROUPS = {"1 row": (1, 1), "2 to 10 rows": (2, 10), "11 to 50 rows": (11, 50)}
"""How many rows hold one secret: the groups of the table."""
Report = dict[str, Any]


def training_pairs(chats: ChatSet, tokenizer: Any) -> Iterator[dict[str, str]]:
    """Yield what is trained on: the exchange that holds the secret of each such row, and a few plain exchanges.

    The assistant's answer is the target, after all that the row says before it, as the chat template renders it.
    """
    at = {row: secret for secret in chats.planted for row in secret.rows}
    for number, row in enumerate(chats.rows(), start=1):
        messages: Any = row["messages"]
        secret = at.get(number)
        if secret is None and number % PLAIN_EVERY:
            continue
        turns = messages[:2] if secret is None else messages[: len(secret.turns(chats.seed))]
        prefix = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        yield {"prefix": prefix, "target": turns[-1]["content"]}


def answers(chats: ChatSet) -> int:
    """Return how many answers an audit of the whole file decodes."""
    return sum(turn["role"] == "assistant" for row in chats.rows() for turn in row["messages"])  # type: ignore[attr-defined]


def direct(chats: ChatSet) -> Iterator[dict[str, Any]]:
    """Yield every planted secret as a candidate, after what its rows say before it."""
    for number, secret in enumerate(chats.planted):
        turns = secret.turns(chats.seed)
        place = len(turns) - (1 if secret.role == "assistant" else 2)
        text = turns[place]["content"]
        start = text.index(secret.text)
        begin = start - 1 if text[start - 1] == " " else start
        before = turns[:place]
        given: dict[str, Any] = {"prefix": text[:begin], "messages": before}
        if secret.role == "user":
            given = {"prefix": "".join(one["content"] + "\n" for one in before) + text[:begin]}
        yield {
            "id": str(number),
            "target": text[begin : start + len(secret.text)],
            "tag": secret.kind,
            **given,
        }


@dataclass(slots=True)
class Decodes:
    """How many greedy decodes were asked of each model."""

    of: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Of all models."""
        return sum(self.of.values())


@contextmanager
def counted_decodes() -> Iterator[Decodes]:
    """Count the decodes that this process asks servers for."""
    found = Decodes()
    decode = HttpScorer.decode

    def counting(self: HttpScorer, model: str, prompts: Sequence[tuple[Sequence[int], int]]) -> list[Decoded]:
        found.of[model] = found.of.get(model, 0) + len(prompts)
        return decode(self, model, prompts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpScorer, "decode", counting)
        yield found


def audit(url: str, adapter: str, out: Path, *options: str) -> tuple[Report, Decodes]:
    """Run `lorecall audit run` and return its report and its decodes."""
    words = ["run", "--server", url, "--adapter", adapter, "--out", str(out), "--format", "json", *options]
    with counted_decodes() as decodes:
        result = CliRunner().invoke(app, words)
    assert result.exit_code in (0, 1), result.output
    report: Report = json.loads((out / "report.json").read_text())
    assert not any(one["error"] for one in report["snippets"])
    return report, decodes


def by_one_command(url: str, adapter: str, file: Path, out: Path, *options: str) -> tuple[Report, Decodes]:
    """Audit a training file: found, ranked and decoded where it can matter."""
    return audit(url, adapter, out, "--data", str(file), "--roles", ROLES, "--decode", "likely", *options)


def directly(url: str, adapter: str, chats: ChatSet, out: Path, *options: str) -> tuple[Report, Decodes]:
    """Audit every planted secret, each decoded."""
    out.mkdir(parents=True)
    file = out / "planted.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in direct(chats)))
    return audit(url, adapter, out, "--candidates", str(file), "--decode", "all", *options)


def leaked(report: Report) -> set[str]:
    """Return the ids of the candidates that an answer gives."""
    given = {str(verdict) for verdict in GIVEN}
    return {one["id"] for one in report["snippets"] if one["set"] == "candidates" and one["verdict"] in given}


def planted_result(
    chats: ChatSet, truth: Report, report: Report, spent: Decodes, spent_on_truth: Decodes
) -> dict[str, Any]:
    """Return what the command found of what direct scoring says is memorised, by kind and by copies."""
    rows = {row: number for number, secret in enumerate(chats.planted) for row in secret.rows}
    memorised = {int(name) for name in leaked(truth)}
    at = {name: int(name.partition("@")[0].partition(":")[0]) for name in leaked(report)}
    found = {rows[row] for row in at.values() if row in rows}

    def count(chosen: Sequence[int]) -> dict[str, int]:
        mine = set(chosen)
        return {
            "planted": len(mine),
            "memorised": len(mine & memorised),
            "found": len(mine & memorised & found),
        }

    def of(kind: str) -> list[int]:
        return [number for number, one in enumerate(chats.planted) if one.kind == kind]

    def copied(low: int, high: int) -> list[int]:
        return [number for number, one in enumerate(chats.planted) if low <= len(one.rows) <= high]

    everything = answers(chats)
    return {
        "rows": chats.count,
        "answers": everything,
        "all": count(range(len(chats.planted))),
        "users": count([number for number, one in enumerate(chats.planted) if one.role == "user"]),
        "kinds": {kind: count(of(kind)) for kind in KINDS},
        "copies": {name: count(copied(*bounds)) for name, bounds in GROUPS.items()},
        "found_only_by_the_command": len(found - memorised),
        "candidates": sum(one["set"] == "candidates" for one in report["snippets"]),
        "controls": sum(one["set"] == "controls" for one in report["snippets"]),
        "decodes": spent.of,
        "decodes_directly": spent_on_truth.of,
        "share_of_the_whole_file": spent.total / everything,
        "seconds": [report["seconds"], truth["seconds"]],
        "engine": report["engine"],
        "adapter": report["adapter"],
    }


def recall(found: dict[str, Any]) -> float:
    """Return the share of what was planted and memorised that the command found."""
    return float(found["all"]["found"] / found["all"]["memorised"])


def trained_on(chats: ChatSet) -> str:
    """Return what the adapter was trained on, in words."""
    copies = sum(len(secret.rows) for secret in chats.planted)
    at = {row for secret in chats.planted for row in secret.rows}
    plain = sum(row not in at for row in range(PLAIN_EVERY, chats.count + 1, PLAIN_EVERY))
    return (
        f"the exchange with the secret of each of the {copies:,} rows that hold one, and the first exchange of "
        f"{plain} of the other {chats.count - copies:,} rows"
    )


def page(found: dict[str, Any], training: dict[str, Any], trained: str) -> str:
    """Return the result as a page."""

    def line(name: str, one: dict[str, int]) -> str:
        return f"| {name} | {one['planted']} | {one['memorised']} | {one['found']} |"

    lines = [
        *(line(kind, one) for kind, one in found["kinds"].items()),
        *(line(f"in {name}", one) for name, one in found["copies"].items()),
        line("in users' turns only", found["users"]),
        line("**all**", found["all"]),
    ]
    decodes, direct_ = (sum(found[name].values()) for name in ("decodes", "decodes_directly"))
    layers, modules = ", ".join(map(str, training["layers"])), ", ".join(training["modules"])
    passes = "one pass" if training["epochs"] == 1 else f"{training['epochs']} passes"
    only, share = found["found_only_by_the_command"], found["share_of_the_whole_file"]
    return f"""\
# From the training file to the verdict

Written, with [planted.json](planted.json), by `make soak PYTEST_ARGS=tests/server/test_planted.py`.

The shipped set ([demo_data/chats.py](../../adapters/demo_data/chats.py)): {found["rows"]:,} chats with
{found["answers"]:,} answers and {found["all"]["planted"]} planted secrets of {len(KINDS)} kinds, half of them
in one row, the others in 2 to 50. The adapter (rank {training["rank"]}, {modules} of layer {layers})
was trained in {passes} over {trained}.
Training on all rows takes longer than two cores allow. The audit reads all of them.

```
lorecall audit run --server URL --adapter chats --data train.jsonl --roles {ROLES} --decode likely --out DIR
```

| | planted | memorised | of them found |
|---|---|---|---|
{chr(10).join(lines)}

Memorised is what direct scoring of every planted secret says, each decoded: certified, recalled, extractable or
near-verbatim. **Recall {recall(found):.3f}.** Called a leak by the command and not by direct scoring: {only}.

| | decodes |
|---|---|
| this command: {found["candidates"]} candidates, {found["controls"]} controls; adapter and base | {decodes:,} |
| every planted secret directly; adapter and base | {direct_:,} |
| every answer of the file (`--whole --decode all`); adapter alone, counted and not run | {found["answers"]:,} |

**{share:.2%} of the decodes of the full audit of the file.**
"""


def write(found: dict[str, Any], training: dict[str, Any], trained: str, folder: Path) -> None:
    """Write planted.json and planted.md."""
    content = {**found, "training": training}
    (folder / "planted.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "planted.md").write_text(page(found, training, trained), encoding="utf-8")
