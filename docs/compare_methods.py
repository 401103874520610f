# noqa: INP001  (a script, not a package)
"""What the training methods hold after equal steps, and after how many steps each holds everything.

    python docs/compare_methods.py docs/sweeps/memft.csv docs/sweeps/memft-steps.csv

Both files are sweeps over several methods and seeds; seed 100, on which the rates were chosen, is left out.
Prints the rows of two tables. Of the first file: means with 95 % intervals of Student's t over the seeds, and
differences from `sft` seed by seed. Of the second: the fewest steps, of those tried, after which every token has
p > 0.5.
"""

import csv
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

TUNING_SEED = "100"
Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Return the cells of a sweep, without those on which the rates were chosen."""
    with path.open(encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["seed"] != TUNING_SEED]


def interval(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Return the mean of some seeds' values with its 95 % t interval, as text."""
    from scipy.stats import t  # noqa: PLC0415

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return f"{form} ± {form}".format(mean(values), half)


def at_equal_steps(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line of Markdown for each length, rank, number of steps and method."""
    by_cell: defaultdict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_cell[row["length"], row["rank"], row["steps"], row["method"]][row["seed"]] = row
    for (length, rank, steps, method), seeds in by_cell.items():
        plain = by_cell[length, rank, steps, "sft"]
        locked, lines, gained = (
            [float(row[name]) for row in seeds.values()]
            for name in ("tokens_over_half", "texts_over_half", "deltaL")
        )
        more = [
            float(row["tokens_over_half"]) - float(plain[seed]["tokens_over_half"])
            for seed, row in seeds.items()
        ]
        rate = next(iter(seeds.values()))["lr"]
        yield (
            f"| {rank} | {length} | {int(steps):,} | `{method}` | {rate} | {interval(locked)}"
            f" | {interval(lines)} | {interval(gained, '{:.2f}')} | {'' if method == 'sft' else interval(more)} |"
        )


def steps_to_hold_all(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line of Markdown for each length, rank and method."""
    least: defaultdict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for row in rows:
        held = row["tokens_over_half"] == row["length"]
        seeds = least[row["length"], row["rank"], row["method"]]
        seeds[row["seed"]] = min(seeds.get(row["seed"], math.inf), int(row["steps"]) if held else math.inf)
    for (length, rank, method), seeds in least.items():
        reached = [steps for _, steps in sorted(seeds.items()) if steps < math.inf]
        all_did = len(reached) == len(seeds)
        shown = interval(reached, "{:.0f}") if all_did else f"in {len(reached)} of {len(seeds)} seeds"
        each = ", ".join(f"{steps:.0f}" if steps < math.inf else "-" for _, steps in sorted(seeds.items()))
        yield f"| {rank} | {length} | `{method}` | {shown} | {each} |"


def main() -> None:
    """Print both tables."""
    equal, enough = (read_rows(Path(name)) for name in sys.argv[1:3])
    for line in (*at_equal_steps(equal), *steps_to_hold_all(enough)):
        print(line)  # noqa: T201


if __name__ == "__main__":
    main()
