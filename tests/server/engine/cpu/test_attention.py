"""Attention and the writing of keys and values as one operator, against vLLM's own two for each layer."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lorecall.server.engine.cpu.attention import attend, load_kernel, number_layer, numbered
from vllm import _custom_ops as ops
from vllm.forward_context import ForwardContext, override_forward_context
from vllm.platforms import current_platform
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl, CPUAttentionMetadata

HEADS, KV_HEADS, SIZE, BLOCK, BLOCKS = 4, 2, 32, 32, 8
TABLES = {"full": [[1, 2], [3, 4]], "window": [[6, 5], [2, 7]]}
"""Of two requests, the blocks of their tokens, in two groups of layers."""
WINDOWS = {"full": -1, "window": 7}
ORDER = ("full", "window", "full", "window")


class Layer(SimpleNamespace):
    """What is asked of a layer of vLLM's; it may be referred to weakly."""


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    """The kernels of vLLM, and ours."""
    current_platform.import_kernels()
    load_kernel()


def config() -> Any:
    """What is asked of vLLM's configuration, of a new model."""
    return SimpleNamespace(
        compilation_config=SimpleNamespace(static_forward_context={}),
        kv_transfer_config=None,
        speculative_config=None,
    )


def new_layer(name: str, group: str, **impl: Any) -> Any:
    """Return a layer of a decoder with an empty cache."""
    own = {
        "scale": 0.2,
        "sliding_window": WINDOWS[group],
        "logits_soft_cap": 3.0,
        "kv_cache_dtype": "auto",
        "is_fp8_kv_cache": False,
        "alibi_slopes": None,
        "sinks": None,
        "attn_type": "decoder",
        "kv_sharing_target_layer_name": None,
    }
    kernel = object.__new__(CPUAttentionBackendImpl)
    vars(kernel).update(own | impl)
    return Layer(
        layer_name=name,
        group=group,
        impl=kernel,
        isa="vec",
        kv_cache=torch.zeros(BLOCKS, KV_HEADS, BLOCK, 2 * SIZE),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_size=SIZE,
        head_size_v=SIZE,
        _k_scale_float=1.0,
        _v_scale_float=1.0,
    )


def new_model() -> list[Any]:
    """Return the layers of a model, numbered."""
    model = config()
    layers = [new_layer(f"layer {i}", group) for i, group in enumerate(ORDER)]
    for layer in layers:
        number_layer(layer, model)
    return layers


@contextmanager
def step(
    layers: list[Any], before: list[int], tokens: list[int], padding: int = 0
) -> Iterator[dict[str, Any]]:
    """Enter a step of two requests that had `before` tokens and get `tokens`; yields the layers' metadata."""
    starts = torch.tensor([0, tokens[0], sum(tokens)], dtype=torch.int32)
    lengths = torch.tensor([a + b for a, b in zip(before, tokens, strict=True)], dtype=torch.int32)
    groups, slots = {}, {}
    for group, tables in TABLES.items():
        slots[group] = torch.tensor(
            [
                table[place // BLOCK] * BLOCK + place % BLOCK
                for table, had, more in zip(tables, before, tokens, strict=True)
                for place in range(had, had + more)
            ]
            + [-1] * padding
        )
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=2,
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=SIZE,
            seq_lens=lengths,
            dtype=torch.float32,
            query_start_loc=starts,
            causal=True,
            sliding_window_size=WINDOWS[group],
            isa="vec",
            enable_kv_split=True,
        )
        table = torch.tensor(tables, dtype=torch.int32)
        groups[group] = CPUAttentionMetadata(
            sum(tokens), max(tokens), starts, int(lengths.max()), lengths, table, slots[group], schedule
        )
    metadata = {layer.layer_name: groups[layer.group] for layer in layers}
    mapping = {layer.layer_name: slots[layer.group] for layer in layers}
    with override_forward_context(ForwardContext({}, metadata, mapping)):
        yield metadata


def run(layers: list[Any], rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return what each layer makes of its rows, through the operator."""
    return [attend(one, *part, torch.float32) for one, part in zip(layers, map(parts, rows), strict=True)]


def parts(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value, as a model splits them."""
    query, key, value = rows.split([HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE], dim=-1)
    return query, key, value


def upstream(layers: list[Any], rows: list[torch.Tensor], metadata: dict[str, Any]) -> list[torch.Tensor]:
    """Return the same by vLLM's own way for layers like these, which writes to the same caches."""
    results = []
    for layer, part in zip(layers, map(parts, rows), strict=True):
        query, key, value = (one.reshape(len(one), -1, SIZE) for one in part)
        told = metadata[layer.layer_name]
        output = torch.zeros_like(query)
        layer.impl.do_kv_cache_update(layer, key, value, layer.kv_cache, told.slot_mapping)
        layer.impl.forward(layer, query, key, value, layer.kv_cache, told, output)
        results.append(output.flatten(1))
    return results


@pytest.mark.parametrize("padding", [0, 3])
def test_it_is_what_vllm_computes(padding: int) -> None:
    """Prompts and then two more tokens, layers of two groups, with caches that are replaced in between."""
    torch.manual_seed(1)
    ours, theirs = new_model(), new_model()
    for before, tokens in (([0, 0], [40, 9]), ([40, 9], [1, 1]), ([0, 0], [5, 33]), ([5, 33], [1, 1])):
        if before == [0, 0]:
            for layer in (*ours, *theirs):
                layer.kv_cache = torch.zeros_like(layer.kv_cache)
        width = (HEADS + 2 * KV_HEADS) * SIZE
        rows = [torch.randn(sum(tokens) + padding, width) for _ in ORDER]
        with step(ours, before, tokens, padding):
            found = run(ours, rows)
        with step(theirs, before, tokens, padding) as metadata:
            expected = upstream(theirs, rows, metadata)
        for mine, other, layer, twin in zip(found, expected, ours, theirs, strict=True):
            assert torch.equal(mine[: sum(tokens)], other[: sum(tokens)])
            assert torch.equal(layer.kv_cache, twin.kv_cache)
            assert other.abs().sum() > 0


def test_without_requests_nothing_is_written() -> None:
    """So a model runs before it has a cache."""
    layers = new_model()
    rows = [torch.randn(2, (HEADS + 2 * KV_HEADS) * SIZE) for _ in ORDER]
    with step(layers, [0, 0], [1, 1]):
        run(layers, rows)
    before = [layer.kv_cache.clone() for layer in layers]
    with override_forward_context(ForwardContext({}, None, {})):
        run(layers, [one + 1 for one in rows])
    assert all(torch.equal(a.kv_cache, b) for a, b in zip(layers, before, strict=True))


def test_layers_in_another_order_are_refused() -> None:
    """What a layer would be told is of the step before."""
    layers = new_model()
    rows = [torch.randn(2, (HEADS + 2 * KV_HEADS) * SIZE) for _ in ORDER]
    with step(layers, [0, 0], [1, 1]):
        run(layers, rows)
    with (
        step(layers, [1, 1], [1, 1]),
        pytest.raises(RuntimeError, match=r"do not run in the order .* --enforce-eager"),
    ):
        run(layers[1:2], rows[:1])


def test_layers_of_engines_that_are_gone_are_let_go() -> None:
    """A layer holds its cache, and those are most of what an engine holds."""
    layers = new_model()
    with step(layers, [0, 0], [1, 1]):
        run(layers, [torch.randn(2, (HEADS + 2 * KV_HEADS) * SIZE) for _ in ORDER])
    told = [f"attention {layer.lorecall_number} {layer.layer_name}" for layer in layers]
    assert numbered()[-len(ORDER) :] == told
    del layers
    gc.collect()
    assert not set(told) & set(numbered())


@pytest.mark.parametrize(
    "own",
    [
        {"attn_type": "encoder"},
        {"kv_sharing_target_layer_name": "another"},
        {"alibi_slopes": torch.ones(HEADS)},
        {"sinks": torch.ones(HEADS)},
        {"is_fp8_kv_cache": True},
    ],
    ids=lambda own: next(iter(own)),
)
def test_other_layers_are_left_to_vllm(own: dict[str, Any]) -> None:
    """And the model's first of the others begins a step."""
    model = config()
    layers = [new_layer("a", "full", **own), new_layer("b", "full")]
    for layer in layers:
        number_layer(layer, model)
    assert layers[0].lorecall_number is None
    assert layers[1].lorecall_number == layers[1].lorecall_first
