"""The rank of the engine's slots, from the adapters that are known at the start, and what the slots cost."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lorecall.adapters.capacity.plan import slot_bytes
from lorecall.adapters.capacity.sizes import BYTES, slot_widths
from lorecall.adapters.core.errors import LorecallError
from lorecall.adapters.core.strict_json import parse_object
from lorecall.adapters.peft_format.config import read_settings
from lorecall.adapters.peft_format.files import CONFIG_FILE, read_json_bytes
from lorecall.adapters.registry.registry import Registry
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.server.engine.start.environment import rank_limit
from lorecall.server.settings import from_home

WITHOUT_ADAPTERS = 32
"""The rank of the slots where no adapter is known, or one whose rank is not."""

PAGE = 500
"""Names whose versions are read at once."""


def default_rank(registry: Registry, named: Mapping[str, str]) -> int:
    """Return the least `--max-lora-rank` of vLLM that holds every adapter known at the start, and say so.

    vLLM pads every slot to it, in memory and in what its kernels read, so a large one is not for free.

    Args:
        registry: Its adapters are served, and any version of theirs may go live again.
        named: Adapters that the command line and the settings name: name to directory or address.

    """
    ranks = [rank for rank in registered_ranks(registry) if rank]
    for source in named.values():
        try:
            raw = read_json_bytes(from_home(source), CONFIG_FILE)
            config = read_settings(parse_object(raw, CONFIG_FILE))
            ranks.append(rank_limit([config.rank, *config.rank_pattern.values()]))
        except (LorecallError, ValueError):  # an address, or what is refused when it is added
            ranks.append(WITHOUT_ADAPTERS)
    limit = rank_limit(ranks or [WITHOUT_ADAPTERS])
    why = (
        f"enough for the {len(ranks)} versions of adapters known now" if ranks else "no adapter is known yet"
    )
    sys.stderr.write(
        f"--max-lora-rank {limit}: {why}; a larger adapter is refused until the server is started with "
        "--max-lora-rank N for it\n"
    )
    return limit


def registered_ranks(registry: Registry) -> Iterator[int]:
    """Yield the ranks of the versions of all names, 0 for one that was not validated yet."""
    after = ""
    while page := registry.adapters(after=after, limit=PAGE):
        versions = registry.versions_of([adapter.name for adapter in page])
        yield from (one.rank for known in versions.values() for one in known)
        after = page[-1].name


def named_modules(flags: Sequence[str]) -> dict[str, str]:
    """Return the adapters of `--lora-modules`: name to path; what vLLM will refuse is left out."""
    found: dict[str, str] = {}
    inside = False
    for flag in flags:
        key, _, value = flag.partition("=") if flag.startswith("--") else ("", "", flag)
        if key:
            inside = key.replace("_", "-") == "--lora-modules"
        if not inside:
            continue
        if value.startswith("{"):
            with suppress(ValueError, KeyError, TypeError):
                module = json.loads(value)
                found[str(module["name"])] = str(module["path"])
        elif "=" in value:
            name, _, path = value.partition("=")
            found[name] = path
    return found


def say_cost(model: str, slots: int, rank: int, dtype: str) -> None:
    """Say what the slots take of the device's memory, for a base in a local directory.

    Args:
        model: The base's directory, or a hub id, of which nothing is said.
        slots: vLLM's `--max-loras`.
        rank: vLLM's `--max-lora-rank`.
        dtype: The dtype of adapters; "auto" counts as one of 16 bits.
    """
    try:
        widths = slot_widths(read_base_facts(Path(model)))
    except LorecallError:
        return
    one = slot_bytes(widths, rank, BYTES.get(dtype, 2)) / 1e9
    sys.stderr.write(
        f"{slots} slots of rank {rank} take {slots * one:.2f} GB on the device, {one:.3f} GB each, whatever the "
        "rank of what is in them: see lorecall plan\n"
    )
