"""`lorecall plan`: what adapters cost in memory and bandwidth, before a server is started."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from lorecall.adapters.capacity.cards import CARDS, Card, card_named
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.console import say
from lorecall.server.cli.common.options import AsJson

GB = 1e9


def plan(
    base: Annotated[Path, typer.Option(help="The directory of the base.")],
    adapters: Annotated[int, typer.Option(help="Adapters that answer at once (--max-loras).")] = 8,
    rank: Annotated[int, typer.Option(help="The slots' rank (--max-lora-rank).")] = 16,
    gpu: Annotated[str | None, typer.Option(help="A GPU of the table, such as H100 or L4.")] = None,
    memory: Annotated[float | None, typer.Option(metavar="GB", help="The device's memory.")] = None,
    bandwidth: Annotated[float | None, typer.Option(metavar="GB/S", help="Its memory's bandwidth.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of a request, prompt and answer.")] = 2048,
    requests: Annotated[int, typer.Option(help="Requests that the cache is to hold.")] = 32,
    kv_cache_dtype: Annotated[str, typer.Option(metavar="auto|fp8", help="As vLLM's flag.")] = "auto",
    utilization: Annotated[
        float | None, typer.Option(help="vLLM's --gpu-memory-utilization.", show_default="vLLM's 0.92")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the slots' memory, the cache that is left, the adapters that fit and the bound on tokens a second.

    The bound is what memory bandwidth allows; an engine stays below it.
    """
    from lorecall.adapters.capacity.plan import UTILIZATION, Wish, make_plan
    from lorecall.adapters.capacity.sizes import read_sizes

    if kv_cache_dtype not in ("auto", "fp8"):
        raise UsageError(f"kv-cache-dtype is {kv_cache_dtype!r}", hint="auto or fp8", param="kv_cache_dtype")
    card = find_card(gpu, memory, bandwidth)
    wish = Wish(adapters, rank, context, requests, cache_bytes=1 if kv_cache_dtype == "fp8" else 2)
    sizes = read_sizes(base)
    found = make_plan(sizes, card, wish, UTILIZATION if utilization is None else utilization)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    say(f"  base            {found.weights / GB:.2f} GB")
    say(
        f"  slots           {adapters} of rank {rank}: {found.slot / GB:.3f} GB each, {found.slots / GB:.2f} GB"
    )
    say(f"  KV cache left   {found.cache / GB:.2f} GB: {found.cached_tokens} tokens")
    say(f"  adapters        {found.most_adapters} fit beside {requests} requests of {context} tokens")
    for speed in found.speeds:
        say(
            f"  {speed.requests:>3} requests    at most {speed.base:,.0f} tokens/s through the base, "
            f"{speed.adapted:,.0f} through adapters ({speed.adapted / speed.base:.2f})"
        )
    if not found.speeds:
        say("  it does not fit: not one request of this length has room")
    if sizes.experts:
        say("  a mixture of experts: a step of few requests reads less than all weights, and can be faster")
    say("  computed from sizes and bandwidth, not measured")


def find_card(gpu: str | None, memory: float | None, bandwidth: float | None) -> Card:
    """Return the card that the options name, in part or whole; without any, this machine's GPU.

    Raises:
        UsageError: There is none, or its bandwidth is not known.
    """
    if gpu is None and (memory is None or bandwidth is None):
        gpu = gpu_here()
    known = card_named(gpu) if gpu is not None else Card(0, 0)
    card = Card(
        known.memory if memory is None else memory * GB,
        known.bandwidth if bandwidth is None else bandwidth * GB,
    )
    if min(card.memory, card.bandwidth) <= 0:
        raise UsageError("memory and bandwidth must be over 0", param="memory")
    return card


def gpu_here() -> str:
    """Return the table's name of this machine's first GPU.

    Raises:
        UsageError: There is none, or it is not in the table.
    """
    import torch

    hint = "name one with --gpu, or give --memory and --bandwidth"
    if not torch.cuda.is_available():
        raise UsageError("this machine has no GPU", hint=hint, param="gpu")
    name = torch.cuda.get_device_name(0).upper().replace(" ", "-")
    found = [one for one in CARDS if all(part in name for part in one.upper().split("-"))]
    if not found:
        raise UsageError(f"the GPU {name} is not in the table", hint=hint, param="gpu")
    return max(found, key=len)
