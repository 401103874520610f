"""What slots, cache and bandwidth come to: by hand for Llama-3.1-8B, and read from a base's files."""

import json
from pathlib import Path

import pytest
from lorecall.adapters.capacity.cards import CARDS, Card, card_named
from lorecall.adapters.capacity.plan import RESERVE, Wish, make_plan, slot_bytes
from lorecall.adapters.capacity.sizes import BaseSizes, read_sizes
from lorecall.adapters.core.errors import BaseModelError, UsageError

from tests.tiny import build_tiny_base

LAYER = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
"""Σ (d_in + d_out) over q, o, k, v, gate, up and down of one layer."""

LLAMA_8B = BaseSizes(
    weights=16_060_000_000,
    read=15_010_000_000,
    cached_values=2 * 32 * 8 * 128,
    widths=32 * LAYER,
    experts=False,
)


def test_a_slot_of_an_8b_model_is_known() -> None:
    """0.67 GB at rank 128, an eighth of that at rank 16."""
    assert slot_bytes(LLAMA_8B.widths, 128, 2) == 671_088_640
    assert slot_bytes(LLAMA_8B.widths, 16, 2) * 8 == 671_088_640


def test_the_parts_add_up_to_the_memory() -> None:
    """Weights, slots, reserve and cache are what vLLM may use; the most adapters leave room for the requests."""
    wish = Wish(adapters=8, rank=16, context=2048, requests=32)
    plan = make_plan(LLAMA_8B, CARDS["H100"], wish)
    assert plan.weights + plan.slots + plan.cache + RESERVE == pytest.approx(0.92 * 80e9)
    assert plan.cached_tokens == plan.cache // (131_072)
    most = make_plan(LLAMA_8B, CARDS["H100"], Wish(plan.most_adapters, 16, 2048, 32))
    assert most.cached_tokens >= 32 * 2048
    one_more = make_plan(LLAMA_8B, CARDS["H100"], Wish(plan.most_adapters + 1, 16, 2048, 32))
    assert one_more.cached_tokens < 32 * 2048


def test_the_bound_is_what_a_step_reads() -> None:
    """One request: weights, its own cache, and one slot, at the card's bandwidth."""
    plan = make_plan(LLAMA_8B, Card(80e9, 3.35e12), Wish(8, 128, context=1000, requests=1))
    read = 15_010_000_000 + 1000 * 131_072
    assert plan.speeds[0].base == pytest.approx(3.35e12 / read)
    assert plan.speeds[0].adapted == pytest.approx(3.35e12 / (read + 671_088_640))
    at_32 = plan.speeds[1]
    assert at_32.adapted == pytest.approx(
        32 * 3.35e12 / (15_010_000_000 + 32_000 * 131_072 + 8 * 671_088_640)
    )


def test_padding_costs_bandwidth() -> None:
    """The same adapters in slots of rank 128 are slower than in slots of rank 16."""
    small, padded = (make_plan(LLAMA_8B, CARDS["H100"], Wish(8, rank, context=512)) for rank in (16, 128))
    assert padded.speeds[1].adapted < small.speeds[1].adapted
    assert padded.speeds[1].base == small.speeds[1].base


def test_what_does_not_fit_has_no_speed() -> None:
    """The weights alone are larger than the card."""
    plan = make_plan(LLAMA_8B, CARDS["T4"], Wish(8, 16))
    assert plan.cache < 0
    assert (plan.cached_tokens, plan.most_adapters, plan.speeds) == (0, 0, ())


def test_an_eight_bit_cache_holds_twice_as_much() -> None:
    """Of the same memory."""
    half, whole = (
        make_plan(LLAMA_8B, CARDS["L40S"], Wish(8, 16, cache_bytes=n)).cached_tokens for n in (1, 2)
    )
    assert half // 2 == whole


@pytest.mark.parametrize("field", ["adapters", "rank", "context", "requests"])
def test_a_number_out_of_bounds_is_named(field: str) -> None:
    """With what would be right."""
    numbers = {"adapters": 1, "rank": 1, "context": 1, "requests": 1, field: 0}
    with pytest.raises(UsageError, match=f"{field} is 0"):
        make_plan(LLAMA_8B, CARDS["L4"], Wish(**numbers))


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    """Hidden 64, 2 layers, 2 heads of 32, 1 KV head, MLP of 128, tied embeddings."""
    sizes = read_sizes(build_tiny_base(tmp_path / "base"))
    assert sizes.weights == sizes.read == (tmp_path / "base/model.safetensors").stat().st_size
    assert sizes.cached_values == 2 * 2 * 1 * 32
    assert sizes.widths == 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert not sizes.experts


def test_a_base_without_attention_sizes_is_refused(tmp_path: Path) -> None:
    """Its cache would be made up."""
    base = build_tiny_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    del config["num_hidden_layers"]
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="does not say how large"):
        read_sizes(base)


def test_a_card_is_found_in_any_case() -> None:
    """Another is refused with the table."""
    assert card_named("h100") == CARDS["H100"]
    with pytest.raises(UsageError, match="no GPU 'K80'") as caught:
        card_named("K80")
    assert "H200" in (caught.value.hint or "")
