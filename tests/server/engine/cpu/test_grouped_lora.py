"""The grouped LoRA path: every request gets what it would get alone; stock vLLM on CPU does not give that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lorecall.server.bench.processes.host import EngineDiedError, EngineHost
from lorecall.server.engine.cpu.grouped_lora import GroupedPunicaWrapper, add_step, split_rows
from lorecall.server.engine.cpu.module_factors import ModuleFactors
from vllm.lora.ops.torch_ops import sgmv_shrink

from tests.server.conftest import ADAPTERS
from tests.tiny import VOCABULARY

TOLERANCE = 2e-4
"""Float32 products of other batch shapes round differently; measured spread is below 1e-5."""

REQUEST = st.fixed_dictionaries(
    {
        "adapter": st.sampled_from([0, *ADAPTERS]),
        "length": st.integers(1, 400),
        "max_tokens": st.integers(1, 12),
        "seed": st.integers(0, 2**16),
    }
)


def as_request(drawn: dict[str, Any], adapters: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Turn a drawn description into a request for the engine host."""
    generator = torch.Generator().manual_seed(drawn["seed"])
    ids = torch.randint(3, VOCABULARY, (drawn["length"],), generator=generator).tolist()
    return {
        "ids": ids,
        "max_tokens": drawn["max_tokens"],
        "adapter": adapters.get(drawn["adapter"]),
        "logprobs": 1,
    }


def disagreement(engine: EngineHost, requests: list[dict[str, Any]]) -> float:
    """Return the largest |difference of log-probabilities| between a mixed batch and each request alone.

    Tokens are compared up to the first that differs; there the two candidates must be a near tie.
    """
    together = engine.run(requests)
    worst = 0.0
    for request, mixed in zip(requests, together, strict=True):
        alone = engine.run([request])[0]
        for a_id, m_id, a, m in zip(
            alone["ids"], mixed["ids"], alone["logprobs"], mixed["logprobs"], strict=True
        ):
            worst = max(worst, abs(a - m))
            if a_id != m_id:
                break
    return worst


@pytest.mark.engine
@settings(
    max_examples=12,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn=st.lists(REQUEST, min_size=2, max_size=10))
def test_mixed_batches_equal_requests_alone(
    plain_engine: EngineHost, adapters: dict[int, dict[str, Any]], drawn: list[dict[str, Any]]
) -> None:
    """Base and four adapters of mixed ranks, chunked prefill beside decode: each as if it were alone."""
    assert disagreement(plain_engine, [as_request(one, adapters) for one in drawn]) < TOLERANCE


MIXED = [
    {"adapter": number, "length": length, "max_tokens": 8, "seed": length}
    for number, length in ((0, 30), (1, 200), (0, 17), (2, 5), (3, 300), (4, 64), (0, 150))
]


@pytest.mark.engine
def test_int8_base_keeps_requests_apart(int8_engine: EngineHost, adapters: dict[int, dict[str, Any]]) -> None:
    """LoRA over INT8 on CPU starts and serves a mixed batch as each request alone."""
    assert disagreement(int8_engine, [as_request(one, adapters) for one in MIXED]) < TOLERANCE


@pytest.mark.engine
def test_an_adapter_changes_the_answer(plain_engine: EngineHost, adapters: dict[int, dict[str, Any]]) -> None:
    """The adapters of these tests are far from the base, so a mix-up could not go unseen."""
    one = {"length": 30, "max_tokens": 1, "seed": 1}
    answers = plain_engine.run(
        [as_request({**one, "adapter": number}, adapters) for number in (0, *ADAPTERS)]
    )
    first = [answer["logprobs"][0] for answer in answers]
    gaps = [abs(a - b) for index, a in enumerate(first) for b in first[index + 1 :]]
    assert min(gaps) > 10 * TOLERANCE


@pytest.fixture(scope="module")
def cramped_engine(start_module_host: Callable[..., EngineHost], tiny: Callable[[str], Path]) -> EngineHost:
    """An engine without prefix caching, whose cache is too small for five requests at once."""
    return start_module_host(
        tiny("none"),
        num_gpu_blocks_override=12,
        block_size=32,
        max_model_len=352,
        enable_prefix_caching=False,
    )


@pytest.mark.engine
def test_preemption_changes_nothing(cramped_engine: EngineHost, adapters: dict[int, dict[str, Any]]) -> None:
    """With a cache too small for the batch requests are preempted and come back; their answers stay the same."""
    drawn = [
        {"adapter": number, "length": 90, "max_tokens": 60, "seed": number} for number in (0, *ADAPTERS, 0)
    ]
    assert disagreement(cramped_engine, [as_request(one, adapters) for one in drawn]) < TOLERANCE


@pytest.mark.engine
def test_prefix_caching_changes_nothing(
    plain_engine: EngineHost, cramped_engine: EngineHost, adapters: dict[int, dict[str, Any]]
) -> None:
    """One prompt through the base and every adapter: each finds its own blocks again, and nobody else's."""
    drawn = {"length": 290, "max_tokens": 4, "seed": 77}
    requests = [as_request({**drawn, "adapter": number}, adapters) for number in (0, *ADAPTERS)]
    uncached = [cramped_engine.run([request])[0] for request in requests]
    first = [plain_engine.run([request])[0] for request in requests]
    again = plain_engine.run(requests[::-1])[::-1]
    assert [answer["cached"] for answer in first] == [0] * len(requests)
    assert min(answer["cached"] for answer in again) > 0
    for expected, *found in zip(uncached, first, again, strict=True):
        for answer in found:
            assert answer["ids"] == expected["ids"]
            assert answer["logprobs"] == pytest.approx(expected["logprobs"], abs=TOLERANCE)


@pytest.mark.engine
def test_stock_mixes_requests_up(stock_engine: EngineHost, adapters: dict[int, dict[str, Any]]) -> None:
    """Stock vLLM on CPU answers base requests beside adapter requests through somebody's adapter."""
    assert disagreement(stock_engine, [as_request(one, adapters) for one in MIXED]) > 100 * TOLERANCE


@pytest.mark.engine
def test_stock_does_not_start_lora_over_int8(
    start_host: Callable[..., EngineHost], tiny: Callable[[str], Path]
) -> None:
    """Stock vLLM cannot serve LoRA over INT8 on CPU: when this fails, its part of `lora_patch.py` can go."""
    with pytest.raises(EngineDiedError):
        start_host(tiny("int8-w8a8"), plugin=False)


def test_rows_are_grouped_by_slot() -> None:
    """Eight rows of a slot go together, wherever they stand; rows without an adapter are in no group."""
    step = split_rows(np.array([-1, 2, 2, 0, 2, -1, *[1] * 8, 2, 2, 1]))
    assert step.groups.tolist() == [
        [3] * 8,
        [6, 7, 8, 9, 10, 11, 12, 13],
        [16] * 8,
        [1, 2, 4, 14, 15, 15, 15, 15],
    ]
    assert step.sizes.tolist() == [1, 8, 1, 5]
    assert step.slots.tolist() == [0, 1, 1, 2]
    assert len(split_rows(np.array([-1, -1])).groups) == 0


def test_padding_of_the_rank_is_found() -> None:
    """A rank is used where both halves of it are; a module that the adapter leaves alone has none."""
    a, b = torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 6, 8)
    module = ModuleFactors((a,), (b,))

    def used() -> int:
        return int(torch.ops.lorecall.used_rank(module.record.ctypes.data, module.stacks.ctypes.data, 0))

    assert used() == 0
    a[0, 0, :3], b[0, 0, :, :5] = 1.0, 1.0
    assert used() == 3
    b[0, 0, :, 2] = 0.0
    assert used() == 2


def stacks(
    ranks: list[int],
    d_in: int,
    widths: tuple[int, ...],
    largest: int = 12,
    dtype: torch.dtype = torch.float32,
) -> ModuleFactors:
    """Return the factors of one module with a random adapter of each rank in each slot."""
    generator = torch.Generator().manual_seed(sum(ranks))
    a = tuple(torch.zeros(len(ranks), 1, largest, d_in) for _ in widths)
    b = tuple(torch.zeros(len(ranks), 1, width, largest) for width in widths)
    for slot, rank in enumerate(ranks):
        for piece in range(len(widths)):
            a[piece][slot, 0, :rank] = torch.randn(rank, d_in, generator=generator)
            b[piece][slot, 0, :, :rank] = torch.randn(widths[piece], rank, generator=generator)
    return ModuleFactors(tuple(one.to(dtype) for one in a), tuple(one.to(dtype) for one in b))


@settings(max_examples=60, derandomize=True)
@given(
    slots=st.lists(st.integers(-1, 3), min_size=1, max_size=40),
    rows=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_shares_equal_their_definition(slots: list[int], rows: torch.dtype, dtype: torch.dtype) -> None:
    """The kernel adds x·Aᵀ·Bᵀ of each row's own adapter, of whatever rank, and nothing to other rows.

    A share is off by roundings of its summands, so the bound is that of the sum of their absolute values.
    """
    module = stacks([3, 0, 12, 20], 20, (40, 4), largest=20, dtype=dtype)
    module.refresh()
    x = torch.randn(len(slots), 20, generator=torch.Generator().manual_seed(1)).to(rows).double()
    found, expected = torch.zeros(len(slots), 44, dtype=rows), torch.zeros(len(slots), 44, dtype=torch.double)
    size = torch.zeros_like(expected)
    add_step(found, x.to(rows), split_rows(np.array(slots)), module, 0.5)
    for row, slot in enumerate(slots):
        if slot >= 0:
            pairs = [
                (a[slot, 0].t().double(), b[slot, 0].t().double())
                for a, b in zip(module.a_stacks, module.b_stacks, strict=True)
            ]
            expected[row] = 0.5 * torch.cat([x[row] @ a @ b for a, b in pairs])
            size[row] = 0.5 * torch.cat([x[row].abs() @ a.abs() @ b.abs() for a, b in pairs])
    unit = max(torch.finfo(one).eps for one in (rows, dtype))
    assert (found.double() - expected).abs().le(3 * unit * size).all()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_company_changes_no_bit(dtype: torch.dtype, stored: torch.dtype) -> None:
    """A row gets the same bits alone, with up to seven others of its slot, and beside other slots."""
    module = stacks([3, 12, 5], 37, (19, 5), dtype=stored)
    for stack in (*module.a_stacks, *module.b_stacks):
        stack.copy_(stack.to(dtype))
    module.refresh()
    slots = np.array([1, 0, 1, 1, 2, 0, -1, 1, 1, 2, 2, *[1] * 9])
    x = torch.randn(len(slots), 37, generator=torch.Generator().manual_seed(2))
    together = torch.ones(len(slots), 24)
    add_step(together, x, split_rows(slots), module, 0.5)
    for row in range(len(slots)):
        for company in range(1, 8):
            few = torch.ones(company, 24)
            add_step(few, x[[row] * company], split_rows(slots[[row] * company]), module, 0.5)
            assert torch.equal(few, together[[row] * company])


def test_threads_change_no_bit() -> None:
    """More threads than groups, and than cores, share a group's columns: the same bits as on one thread."""
    module = stacks([12, 5], 37, (300, 5, 40))
    module.refresh()
    x = torch.randn(9, 37, generator=torch.Generator().manual_seed(5))
    step, before, found = split_rows(np.array([0, 0, 1, -1, 0, 0, 0, 1, 1])), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 13, 40):
            torch.set_num_threads(threads)
            found.append(torch.ones(9, 345))
            add_step(found[-1], x, step, module, 0.5)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], one) for one in found)
    assert not torch.equal(found[0], torch.ones(9, 345))


def test_rows_may_be_parts_of_wider_ones() -> None:
    """Rows that stand apart in memory, in and out, get their shares; what lies between them is left alone."""
    module = stacks([4], 6, (5,))
    module.refresh()
    x, y, step = torch.randn(3, 8), torch.zeros(3, 9), split_rows(np.array([0, 0, 0]))
    expected = torch.zeros(3, 5)
    add_step(expected, x[:, :6].contiguous(), step, module, 1.0)
    add_step(y[:, 2:7], x[:, :6], step, module, 1.0)
    assert torch.equal(y[:, 2:7], expected)
    assert not y[:, [0, 1, 7, 8]].any()


@pytest.mark.parametrize("add_inputs", [True, False])
def test_an_embedding_gets_the_share_of_its_own_adapter(*, add_inputs: bool) -> None:
    """Runs of any length: each row its own slot's product, rows without an adapter nothing."""
    slots = torch.tensor([-1, 2, 2, 0, -1, 1, 1, 1])
    wrapper = GroupedPunicaWrapper(8, 8, torch.device("cpu"), max_loras=3)
    wrapper._token_lora_indices[: len(slots)] = slots
    wrapper.indices_len[0] = len(slots)
    generator = torch.Generator().manual_seed(3)
    x, b = torch.randn(8, 4, generator=generator), torch.randn(3, 1, 6, 4, generator=generator)
    found, expected = torch.ones(8, 6), torch.ones(8, 6)
    wrapper.add_lora_embedding(found, x, b, add_inputs)
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            expected[row] = b[slot, 0] @ x[row] + add_inputs
    torch.testing.assert_close(found, expected)


def test_rows_that_are_not_there_are_refused() -> None:
    """More rows than a module was given, or other columns, are an error, not a write past the end."""
    module = stacks([4], 6, (5,))
    module.refresh()
    for rows, d_out, d_in in ((2, 5, 6), (3, 4, 6), (3, 5, 7)):
        with pytest.raises(RuntimeError, match="a step of 3 rows and a module of 6 x 5"):
            add_step(
                torch.zeros(rows, d_out), torch.ones(rows, d_in), split_rows(np.array([0, 0, 0])), module, 1.0
            )


def test_a_slot_that_changes_is_packed_again() -> None:
    """After an adapter of another rank moves in, nothing of the one before is left."""
    module, other = stacks([8, 4], 6, (5,)), stacks([2, 4], 6, (5,))
    module.refresh()
    module.a_stacks[0][0].copy_(other.a_stacks[0][0])
    module.b_stacks[0][0].copy_(other.b_stacks[0][0])
    module.stale.add(0)
    module.refresh()
    x, found = torch.ones(1, 6), torch.zeros(1, 5)
    add_step(found, x, split_rows(np.array([0])), module, 1.0)
    expected = x @ other.a_stacks[0][0, 0].t() @ other.b_stacks[0][0, 0].t()
    torch.testing.assert_close(found, expected)


def test_bfloat16_adapters_are_packed_as_such() -> None:
    """Numbers of bfloat16 are packed in two bytes and give the same bits; one other adapter makes all float32."""
    module, plain = stacks([3, 12, 5], 37, (19, 5)), stacks([3, 12, 5], 37, (19, 5))
    for stack in (*module.a_stacks, *module.b_stacks, *plain.a_stacks, *plain.b_stacks):
        stack.copy_(stack.bfloat16())
    plain.a_stacks[0][2, 0, 0, 0] = 0.1
    module.refresh()
    plain.refresh()
    assert (module.dtype, plain.dtype) == (torch.bfloat16, torch.float32)
    x = torch.randn(9, 37, generator=torch.Generator().manual_seed(4))
    shares = [torch.zeros(9, 24), torch.zeros(9, 24)]
    for share, one in zip(shares, (module, plain), strict=True):
        add_step(share, x, split_rows(np.array([1, 0, 1, 1, 1, 0, -1, 1, 1])), one, 0.5)
    assert torch.equal(*shares)
    for stack in (plain.a_stacks[0], module.a_stacks[0]):
        stack[2, 0, 0, 0] = 0.1 if stack is module.a_stacks[0] else 0.5
    for one in (module, plain):
        one.stale.add(2)
        one.refresh()
    assert (module.dtype, plain.dtype) == (torch.float32, torch.bfloat16)


def peak_bytes(step: Callable[[], Any]) -> int:
    """Return the largest amount of memory that torch held at once inside `step`, beyond what it held before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as trace:
        step()
    held = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_stock_gathers_the_matrices_per_token() -> None:
    """Stock vLLM's kernel holds rank x width numbers for every token; ours holds rank numbers."""
    tokens, rank, width = 512, 16, 256
    x, a = torch.randn(tokens, width), torch.randn(1, 1, rank, width)
    out = torch.zeros(tokens, rank)
    ones = torch.ones(1, dtype=torch.long)
    stock = peak_bytes(
        lambda: sgmv_shrink(x, a, out, 0 * ones, tokens * ones, 0 * ones, 1, tokens, tokens, 1.0)
    )
    module = stacks([rank], width, (width,), largest=rank)
    module.refresh()
    y, step = torch.zeros(tokens, width), split_rows(np.zeros(tokens, dtype=np.int64))
    ours = peak_bytes(lambda: add_step(y, x, step, module, 1.0))
    assert stock >= tokens * rank * width * 4
    assert ours <= 2 * tokens * rank * 4
