# noqa: INP001  (a script, not a package)
"""Compute the tables of docs/scaling.md: the cost model beside measured runs, and what large audits take.

    python docs/simulate_scaling.py

Constants under "measured" are from the runs that the page describes. No figure of a GPU is measured: peaks are
from data sheets, and the shares of them that are reached are assumed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lorecall.adapters.capacity.cards import CARDS

BENCHMARKS = Path(__file__).with_name("benchmarks")
RANK = 16
"""Of the adapters of that benchmark."""

# Measured on this project's two cores: the run of a million rows against the deterministic test scorer.
WORKER_S = 385e-6
"""CPU seconds of a worker for one row: HTTP, JSON and judging."""
DRIVER_S = 29e-6
"""CPU seconds of the driver for one row: to take it and to write it."""
REDUCE_S = 90e-6
"""CPU seconds for one row to be counted, compared and written with its verdict."""
READ_S = 81e-6
"""CPU seconds of the driver to read and check one snippet, once for all adapters."""
ROW_BYTES = 12.3
"""Bytes of a row on disk."""
REDUCE_BYTES = 250.0
"""Bytes of the driver's memory for each row of the one adapter that is reduced, at the most."""

# Assumed.
SCORING_SHARE = 0.4
"""Of a card's dense 16-bit peak, while texts are scored."""
DECODING_SHARE = 0.6
"""Of a card's memory bandwidth, while answers are decoded."""
LOAD_S = 1.0
"""Seconds in which a server loads an adapter of 84 MB from the shared store and scores nothing."""
WORKER_CORES = 8
"""Cores for workers beside each GPU."""

TOGETHER, BATCH, BLOCK = 8, 64, 1024
"""Defaults of `lorecall audit bulk`: adapters at a time, snippets in a request, and in a block."""


@dataclass(frozen=True)
class Base:
    """A transformer.

    Attributes:
        linear: Weights in the linear layers of all blocks.
        layers: Blocks.
        hidden: Width.
        vocabulary: Rows of the head.
        widths: Sum of d_in + d_out over the linear layers: an adapter of rank r has r times as many weights.
        cached: Numbers that are cached for a token.
        weight_bytes: Bytes of one weight.
    """

    linear: float
    layers: int
    hidden: int
    vocabulary: int
    widths: int
    cached: int
    weight_bytes: float


SMOL = Base(106.2e6, 30, 576, 49_152, 305_280, 2 * 30 * 3 * 64, 1.0)
EIGHT = Base(6.98e9, 32, 4096, 128_256, 2_621_440, 2 * 32 * 8 * 128, 2.0)


@dataclass(frozen=True)
class Card:
    """A GPU: dense 16-bit multiply-adds a second, counted as two, by its data sheet; dollars an hour, assumed."""

    name: str
    peak: float
    price: float

    @property
    def bandwidth(self) -> float:
        """Bytes a second, by its data sheet."""
        return CARDS[self.name].bandwidth


H100 = Card("H100", 989e12, 3.0)


def scoring_flops(base: Base, rank: int, prefix: float, target: float) -> float:
    """Return the operations to score one snippet through one model; the head is asked for target tokens only."""
    tokens = prefix + target
    linear = 2.0 * (base.linear + rank * base.widths) * tokens
    attention = 2.0 * base.layers * base.hidden * tokens**2
    return linear + attention + 2.0 * base.hidden * base.vocabulary * target


def scoring_bytes(base: Base, rank: int, tokens: float, step: float) -> float:
    """Return the bytes read and written to score so many tokens, in steps of so many."""
    weights = base.linear * base.weight_bytes + 2.0 * rank * base.widths
    activations = (
        2.0 * base.layers * 20 * base.hidden * tokens
    )  # about twenty vectors of the width in each block
    return weights * tokens / step + activations


def decoding_bytes(base: Base, rank: int, context: float, batch: int) -> float:
    """Return the bytes that one decoding step of a batch reads: weights, head, one adapter, cached tokens."""
    weights = (base.linear + base.hidden * base.vocabulary) * base.weight_bytes
    return weights + 2.0 * rank * base.widths + 2.0 * batch * context * base.cached


@dataclass(frozen=True)
class Work:
    """An audit.

    Attributes:
        name: What it is.
        pairs: Pairs of adapter and snippet.
        adapters: Adapters.
        snippets: Different snippets that are read.
        shared: Adapters that share what the base says of a snippet.
        prefix: Tokens of a prefix.
        target: Tokens of a target.
        decoded: Share of the pairs that are decoded.
        rank: Of every adapter.
    """

    name: str
    pairs: float
    adapters: int
    snippets: float
    shared: int
    prefix: int = 64
    target: int = 32
    decoded: float = 0.1
    rank: int = 16
    batch: int = 256

    @property
    def answer(self) -> int:
        """Tokens decoded for a pair."""
        return self.target + 16


OWN = Work("of one adapter", 1e9, 1000, 1e9, 1)
ALL = Work("of each adapter", 1e12, 1000, 1e9, TOGETHER)


def gpu_seconds(work: Work, base: Base, card: Card) -> dict[str, float]:
    """Return the seconds of one GPU by what they are spent on."""
    own = scoring_flops(base, work.rank, work.prefix, work.target)
    shared = scoring_flops(base, 0, work.prefix, work.target) / work.shared
    again = scoring_flops(base, work.rank, work.prefix, 0)  # the prefix of what is decoded
    steps = work.pairs * work.decoded * work.answer / work.batch
    read = decoding_bytes(base, work.rank, work.prefix + work.answer / 2, work.batch)
    speed = card.peak * SCORING_SHARE
    return {
        "scoring": work.pairs * (own + shared) / speed,
        "decoding": work.pairs * work.decoded * again / speed
        + steps * read / (card.bandwidth * DECODING_SHARE),
    }


def hours(work: Work, base: Base, card: Card, gpus: int, drivers: int) -> dict[str, float]:
    """Return the hours that each part takes, on its own, with so many GPUs; drivers share the adapters."""
    spent = gpu_seconds(work, base, card)
    loads = work.adapters * LOAD_S  # each server loads each adapter once
    read = work.snippets / (
        drivers if work.shared == 1 else 1
    )  # each driver reads what its adapters are asked
    return {
        "GPUs": (sum(spent.values()) / gpus + loads) / 3600,
        "workers": work.pairs * WORKER_S / (gpus * WORKER_CORES) / 3600,
        "drivers": (read * READ_S + work.pairs * (DRIVER_S + REDUCE_S) / drivers) / 3600,
    }


def rates(work: Work, seconds: float) -> dict[str, float]:
    """Return what routers and the registry see, a second."""
    requests = work.pairs / BATCH * (1.0 + 1.0 / work.shared + work.decoded)
    return {
        "requests": requests / seconds,
        "lookups": 2.0 * work.pairs / BLOCK / seconds,
    }


def decoding_flops(base: Base, rank: int) -> float:
    """Return the operations to decode one token, without attention."""
    return 2.0 * (base.linear + rank * base.widths + base.hidden * base.vocabulary)


def checks() -> Iterator[tuple[str, float, float]]:
    """Yield what is predicted from one measurement of docs/benchmarks/, and the one that it is held to.

    An adapter's rate follows from the base's by their operations; that of four answers at a time from those of
    one and of sixteen, as a step costs so much, and so much for each answer. A bulk audit's time is the sum of
    its parts, as `measure_bulk.py` measures them.
    """
    sections = json.loads((BENCHMARKS / "avx2" / "cpu-lora-schemes.json").read_text(encoding="utf-8"))[
        "sections"
    ]
    prefill = scoring_flops(SMOL, 0, 256, 0) / scoring_flops(SMOL, RANK, 256, 0)
    decode = decoding_flops(SMOL, 0) / decoding_flops(SMOL, RANK)
    for row in sections["What adapters cost"]:
        if row["name"] == "1 adapter":
            share = prefill if row["metric"].startswith("prefill") else decode
            what = row["metric"].split(" requests")[0].rpartition(",")[0]
            base, adapter = median(row["theirs"]), median(row["ours"])
            yield f"{what}, an adapter, from the base ({row['note']})", base * share, adapter
    rates: dict[tuple[str, int], float] = {}
    for row in sections["Schemes"]:
        if row["metric"].startswith("decode, "):
            count = int(row["metric"].split()[1])
            rates[row["name"], count], rates["none", count] = median(row["ours"]), median(row["theirs"])
    for scheme in dict.fromkeys(scheme for scheme, _ in rates):
        one, many = 1.0 / rates[scheme, 1], 16.0 / rates[scheme, 16]
        step = one + (many - one) * 3.0 / 15.0
        yield f"decode tok/s, {scheme}, 4 at a time, from 1 and 16", 4.0 / step, rates[scheme, 4]
    bulk = json.loads((BENCHMARKS / "bulk.json").read_text(encoding="utf-8"))
    yield (
        "seconds of a bulk audit on a real engine, from its parts",
        bulk["bulk_summed"],
        bulk["bulk"]["seconds"],
    )


def check_rows() -> Iterator[list[str]]:
    """Yield the checks, and how many are within a fifth."""
    yield ["two cores, no GPU", "predicted", "measured", "ratio"]
    ratios = []
    for what, predicted, measured in checks():
        ratios.append(predicted / measured)
        yield [what, f"{predicted:,.0f}", f"{measured:,.0f}", f"{ratios[-1]:.2f}"]
    yield ["within 20 %", "", "", f"{sum(abs(ratio - 1.0) <= 0.2 for ratio in ratios)} of {len(ratios)}"]


def plan_rows(base: Base, card: Card) -> Iterator[list[str]]:
    """Yield the rows of the plan."""
    seen = ["requests/s", "look-ups/s", "rows", "reduce"]
    yield ["each snippet", "GPUs", "drivers", "hours", "GPU hours", "cost", "waits for", *seen]
    for work in (OWN, ALL):
        for gpus, drivers in ((8, 1), (64, 1), (64, 64), (512, 64)):
            parts = hours(work, base, card, gpus, drivers)
            slowest = max(parts, key=lambda name: parts[name])
            total = parts[slowest]
            told = rates(work, total * 3600)
            yield [
                work.name,
                str(gpus),
                str(drivers),
                f"{total:,.0f}" if total >= 10 else f"{total:.1f}",
                f"{total * gpus:,.0f}",
                f"${total * gpus * card.price:,.0f}",
                slowest,
                f"{told['requests']:,.0f}",
                f"{told['lookups']:,.0f}",
                f"{work.pairs * ROW_BYTES / 1e12:,.2f} TB",
                f"{work.pairs / work.adapters * REDUCE_BYTES / 1e9:,.1f} GB",
            ]


def split_rows(base: Base, card: Card) -> Iterator[list[str]]:
    """Yield how the GPU seconds of a million pairs divide."""
    yield ["of 10^6 pairs", "scoring, s", "decoding 10 %, s", "decoding all, s", "operations a scored token"]
    for work in (OWN, ALL):
        some = gpu_seconds(Work(work.name, 1e6, 1, 1e6, work.shared), base, card)
        every = gpu_seconds(Work(work.name, 1e6, 1, 1e6, work.shared, decoded=1.0), base, card)
        flops = scoring_flops(base, work.rank, work.prefix, work.target) / (work.prefix + work.target)
        cells = [f"{value:,.1f}" for value in (some["scoring"], some["decoding"], every["decoding"])]
        yield [f"the base shared by {work.shared}", *cells, f"{flops / 1e9:.1f}e9"]


def table(rows: Iterator[list[str]]) -> str:
    """Return rows as a Markdown table, the first as its head."""
    first, *rest = rows
    lines = [first, ["---"] + ["---:"] * (len(first) - 1), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page_tables() -> str:
    """Return what docs/scaling.md has between its marks."""
    return "\n".join([table(check_rows()), table(split_rows(EIGHT, H100)), table(plan_rows(EIGHT, H100))])


if __name__ == "__main__":
    print(page_tables())  # noqa: T201
