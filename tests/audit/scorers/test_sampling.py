"""The probability of a token under a sampling scheme."""

import math
from itertools import product

import pytest
import torch
from lorecall.audit.scorer import EngineInfo, Sampling
from lorecall.audit.scorers.sampling import deployed_sampling, sampled_logprobs
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

SCHEMES = [
    Sampling(temperature, top_p, top_k)
    for temperature, top_p, top_k in product((0.3, 1.0, 1.7), (0.1, 0.9, 1.0), (0, 1, 5, 500))
]


def as_vllm(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The log probabilities that vLLM's sampler draws from; it writes into what it is given."""
    rows = len(logits)
    top_k = torch.full((rows,), min(sampling.top_k, logits.shape[1])) if sampling.top_k else None
    top_p = torch.full((rows,), sampling.top_p) if sampling.top_p < 1.0 else None
    kept = apply_top_k_top_p_pytorch(logits / sampling.temperature, top_k, top_p, allow_cpu_sync=True)
    return kept.log_softmax(-1)


@pytest.mark.parametrize("sampling", SCHEMES, ids=str)
def test_it_is_what_vllms_sampler_draws_from(sampling: Sampling) -> None:
    """Every token of the vocabulary, kept or cut, for peaked and for flat logits."""
    for width in (0.3, 3.0, 12.0):
        logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(7)) * width
        expected = as_vllm(logits.clone(), sampling)[0]
        found = sampled_logprobs(logits.expand(60, -1), torch.arange(60), sampling)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert (found.exp() > 0).sum() == (expected.exp() > 0).sum()


@pytest.mark.parametrize("sampling", [Sampling(0.7, 0.8, 4), Sampling(1.0, 0.95, 0)], ids=str)
def test_drawn_tokens_come_as_often_as_it_says(sampling: Sampling) -> None:
    """20,000 draws: each token's count is within five standard deviations."""
    logits = torch.tensor([[2.0, 1.5, 1.4, 0.2, 0.1, -1.0, -3.0]])
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(as_vllm(logits.clone(), sampling).exp(), 20_000, True, generator=generator)
    counts = torch.bincount(draws[0], minlength=7)
    p = sampled_logprobs(logits.expand(7, -1), torch.arange(7), sampling).exp()
    for count, share in zip(counts.tolist(), p.tolist(), strict=True):
        assert abs(count - 20_000 * share) <= 5.0 * math.sqrt(20_000 * share * (1 - share)) + 1e-9


def test_equal_tokens_at_the_edge_all_stay() -> None:
    """A tie at the edge of top-k stays as in vLLM; at that of top-p no token seems safer than it is."""
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).expand(4, -1)
    for sampling in (Sampling(1.0, 1.0, 2), Sampling(1.0, 0.3, 0)):
        p = sampled_logprobs(logits, torch.arange(4), sampling).exp()
        assert p.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])


@pytest.mark.parametrize(
    ("given", "sampling", "left_out"),
    [
        ({}, Sampling(), ()),
        ({"temperature": 0.6, "top_p": 0.9, "max_tokens": 9}, Sampling(0.6, 0.9), ()),
        ({"top_k": -1, "min_p": 0.05}, Sampling(), ("min_p",)),
        ({"temperature": 0.0, "top_p": 0.9, "top_k": 5}, Sampling(0.0), ()),
        ({"top_k": 20, "repetition_penalty": 1.1, "min_p": 0.0}, Sampling(top_k=20), ("repetition_penalty",)),
    ],
)
def test_a_generation_config_is_read(
    given: dict[str, float], sampling: Sampling, left_out: tuple[str, ...]
) -> None:
    """Temperature 0 is greedy whatever else it says; penalties are named, because no probability has them."""
    assert deployed_sampling(given) == (sampling, left_out)
    assert EngineInfo("e", "b", "", "", None, *deployed_sampling(given)).penalties == left_out
