# noqa: INP001  (a script, not a package)
r"""What a defence takes off the recall of trained lines, and what it costs on other lines of the same kind.

    python docs/defences.py doses --base BASE --data FILE --held-out FILE --out docs/sweeps/defences-after.csv
    python docs/defences.py draw docs/sweeps/defences.csv docs/sweeps/defences-after.csv \
      docs/images/law-defences.svg

`doses` trains the undefended adapter for each seed, makes the weaker copies that `lorecall audit mitigate` makes,
and measures them as `lorecall sweep --held-out` measures the trainings of the first file. `draw` draws both files
and prints the table, with 95 % intervals of Student's t over the seeds.
"""

import argparse
import csv
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lorecall.adapters.derive.weaken import Dose, Kind, write_dose
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.prepare_input import TrainingInput, prepare_input
from lorecall.adapters.training.sweep import first_texts
from lorecall.adapters.training.train import train_on
from lorecall.adapters.training.upper_layers import measure

SEEDS, LENGTH, RANK, EPOCHS = (0, 1, 2), 200, 8, 400
DOSES = (
    *(Dose(Kind.SCALE, value) for value in (0.75, 0.5, 0.375, 0.25, 0.125)),
    *(Dose(Kind.RANK, value) for value in (6, 4, 2, 1)),
)
COLUMNS = (
    "defence", "value", "seed", "length", "tokens_over_half", "texts", "texts_over_half",
    "base_loss", "loss", "held_out_base_loss", "held_out_loss",
)  # fmt: skip
USUAL = {"rank": RANK, "epochs": EPOCHS, "dropout": 0}
TICKS = (2.5, 3, 4, 5, 6, 8, 10, 12)
Row = dict[str, Any]


def doses(base: Path, data: Path, held_out: Path) -> Iterator[Row]:
    """Yield a row for each seed and weaker copy."""
    for seed in SEEDS:
        options = TrainingOptions(
            rank=RANK, layers="29", modules="down_proj", epochs=EPOCHS, lr=0.02, schedule="plateau", seed=seed,
            stop_over=1.0,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            trained, file = Path(scratch) / "trained", Path(scratch) / "data.jsonl"
            texts = first_texts(base, data, LENGTH)
            file.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in texts), encoding="utf-8")
            ready = prepare_input(base, file, options, held_out)
            train_on(ready, trained, options)
            for dose in DOSES:
                folder = Path(scratch) / dose.label
                write_dose(trained, dose, folder)
                yield {
                    "defence": f"{dose.kind} after",
                    "value": dose.value,
                    "seed": seed,
                    **measured(ready, folder),
                }


def measured(ready: TrainingInput, folder: Path) -> Row:
    """Return what an adapter holds of the trained texts, and its loss on the held-out ones."""
    from peft import PeftModel  # noqa: PLC0415

    model = PeftModel.from_pretrained(ready.model, folder)
    try:
        own, others = measure(ready.upper, ready.batches), measure(ready.upper, ready.held_out)
    finally:
        model.unload()
    assert ready.held_out_before is not None  # noqa: S101
    return {
        "length": sum(len(one.target) for one in ready.encoded),
        "tokens_over_half": own.over_half,
        "texts": len(ready.encoded),
        "texts_over_half": own.texts_over_half,
        "base_loss": ready.before.loss,
        "loss": own.loss,
        "held_out_base_loss": ready.held_out_before.loss,
        "held_out_loss": others.loss,
    }


def trainings(path: Path) -> Iterator[Row]:
    """Yield the rows of a sweep, each under the name of what differs from the undefended training."""
    for row in read_rows(path):
        changed = [(name, row[name]) for name, usual in USUAL.items() if float(row[name]) != usual]
        ((name, value),) = changed or [("none", RANK)]
        yield {**row, "defence": name, "value": float(value)}


def read_rows(path: Path) -> list[Row]:
    """Return the lines of a table."""
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % t interval."""
    from scipy.stats import t  # noqa: PLC0415

    return mean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def draw(rows: list[Row], picture: Path) -> None:
    """Draw the share of trained tokens over 0.5 against the held-out loss, and print the table."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    groups: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["defence"], float(row["value"])].append(row)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    print("| defence | tokens over 0.5 | lines with all tokens over 0.5 | held-out loss |\n|---|---|---|---|")  # noqa: T201
    for name in dict.fromkeys(defence for defence, _ in groups):
        points = []
        for value in sorted(value for defence, value in groups if defence == name):
            group = groups[name, value]
            tokens = interval([float(row["tokens_over_half"]) / float(row["length"]) for row in group])
            texts = interval([float(row["texts_over_half"]) / float(row["texts"]) for row in group])
            loss = interval([float(row["held_out_loss"]) for row in group])
            points.append((*loss, *tokens))
            shares = (f"{100 * middle:.1f} % ± {100 * half:.1f}" for middle, half in (tokens, texts))
            print(f"| {name} {value:g} | {' | '.join(shares)} | {loss[0]:.2f} ± {loss[1]:.2f} |")  # noqa: T201
        x, x_half, y, y_half = zip(*points, strict=True)
        style = "o" if name == "none" else "o--" if name.endswith("after") else "o-"
        axes.errorbar(x, y, y_half, x_half, fmt=style, capsize=2, label=name, lw=1, ms=4)
    base = float(rows[0]["held_out_base_loss"])
    axes.axvline(base, color="grey", lw=0.8)
    axes.annotate("the base", (base, 1), rotation=90, va="top", ha="right", color="grey")
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlabel("loss on held-out lines (nats per token)")
    axes.set_ylabel("share of trained tokens over 0.5")
    axes.legend()
    figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    """Run one of the two parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    measuring = parts.add_parser("doses")
    for name in ("--base", "--data", "--held-out", "--out"):
        measuring.add_argument(name, type=Path, required=True)
    drawing = parts.add_parser("draw")
    for name in ("sweep", "after", "picture"):
        drawing.add_argument(name, type=Path)
    asked = parser.parse_args()
    if asked.part == "doses":
        found = list(doses(asked.base, asked.data, asked.held_out))
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
    else:
        draw([*trainings(asked.sweep), *read_rows(asked.after)], asked.picture)


if __name__ == "__main__":
    main()
