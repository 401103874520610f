# noqa: INP001  (a script, not a package)
r"""Measure docs/peers.md: what neighbouring tools say of the same adapter and the same snippets.

    python docs/measure_peers.py --server URL --adapter NAME --tokenizer BASE_DIR --candidates FILE \
      --controls FILE

Needs lm-eval (`pip install lm-eval`, which brings scikit-learn), in no extra of ours. The references for the
definitions of open-unlearning and of Hayes et al. are written here from their formulas, over vLLM's own prompt
log-probabilities and lm-eval's: nothing of ours computes them.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lorecall.audit.inputs.load import load_input
from lorecall.audit.judging.peer_measures import exact_memorization, extraction_strength
from lorecall.audit.judging.rule import argmax_flags
from lorecall.audit.records import AuditResult, SnippetResult
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.audit.verdicts import Group
from mpmath import mp
from sklearn.metrics import roc_auc_score, roc_curve

CHANCE, SAMPLES = 0.5, 100
"""Of Hayes' (n, p): extractable if it comes out within n samples with probability p."""

FALSE_POSITIVES = 0.01
Row = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """What the others say of one snippet: greedy, log-probability, shares, and log10 of Hayes' n."""

    greedy: bool
    logprob: float
    memorization: float
    strength: float
    published_strength: float
    log10_n: float


def by_harness(
    server: str, adapter: str, tokenizer: Path, results: list[SnippetResult]
) -> list[tuple[float, bool]]:
    """Return lm-evaluation-harness's loglikelihood of each target: (sum of log p, is_greedy)."""
    model = LocalCompletionsAPI(
        base_url=f"{server}/v1/completions",
        model=adapter,
        tokenizer_backend="huggingface",
        tokenizer=str(tokenizer),
        batch_size=8,
    )
    asked = [
        Instance("loglikelihood", {}, (result.item.prefix, result.item.target), index)
        for index, result in enumerate(results)
    ]
    return [(float(logprob), bool(greedy)) for logprob, greedy in model.loglikelihood(asked)]


def by_formula(server: str, adapter: str, result: SnippetResult) -> tuple[list[int], list[int], float]:
    """Return predicted and true tokens and the sum of log p, from /v1/completions alone."""
    score = result.score
    if score is None:
        raise SystemExit(f"{result.item.id}: {result.error}")
    body = {
        "model": adapter,
        "prompt": [*score.prefix_ids, *score.target_ids],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 1,
    }
    answer = httpx.post(f"{server}/v1/completions", json=body, timeout=600).raise_for_status().json()
    rows: list[Row] = answer["choices"][0]["prompt_logprobs"][len(score.prefix_ids) :]
    predicted = [int(max(row, key=lambda token: row[token]["logprob"])) for row in rows]
    own = [row[str(token)]["logprob"] for row, token in zip(rows, score.target_ids, strict=True)]
    return predicted, list(score.target_ids), math.fsum(own)


def samples(logprob: float) -> float:
    """Return log10 of Hayes' n: ln(1 - p) / ln(1 - p_z), in sixty digits."""
    mp.dps = 60
    return float(mp.log10(mp.log(1 - mp.mpf(CHANCE)) / mp.log(1 - mp.exp(mp.mpf(logprob)))))


def peers(server: str, adapter: str, tokenizer: Path, results: list[SnippetResult]) -> list[Peer]:
    """Return what the others say of each snippet."""
    found = []
    for (logprob, greedy), result in zip(
        by_harness(server, adapter, tokenizer, results), results, strict=True
    ):
        predicted, true, own = by_formula(server, adapter, result)
        n = len(true)
        matches = sum(a == b for a, b in zip(predicted, true, strict=True))
        by_definition = min(k for k in range(n + 1) if predicted[k:] == true[k:])
        by_code = next((k for k in range(n) if predicted[k:] == true[k:]), n - 1)
        found.append(
            Peer(
                greedy,
                logprob,
                matches / n,
                1 - by_definition / n,
                1 - by_code / n,
                max(0.0, samples(own)),
            )
        )
    return found


def by_reference(server: str, adapter: str, tokenizer: Path, found: AuditResult) -> tuple[float, float]:
    """Return how well the loss tells candidates from controls: the area under the ROC curve, and the rate found.

    The score is open-unlearning's `mia_reference`, mean loss of the model minus that of a reference model, here
    the base, of lm-eval's log-probabilities; the area is of the function that it calls, the rate at
    FALSE_POSITIVES of the curve beside it.
    """
    asked = [one for one in found.snippets if one.score is not None]
    losses = [
        [
            -logprob / len(one.score.target_ids)
            for (logprob, _), one in zip(by_harness(server, model, tokenizer, asked), asked, strict=True)
            if one.score is not None
        ]
        for model in (adapter, found.engine.base)
    ]
    scores = [own - reference for own, reference in zip(*losses, strict=True)]
    member = [one.group is Group.CANDIDATES for one in asked]
    low = [-score for score in scores]  # a low loss says member
    false, true, _ = roc_curve(member, low)
    rate = max(t for f, t in zip(false, true, strict=True) if f <= FALSE_POSITIVES)
    return float(roc_auc_score(member, low)), float(rate)


def membership_rows(found: AuditResult, area: float, rate: float) -> list[str]:
    """Return the table's rows about candidates and controls."""
    if found.membership is None:
        raise SystemExit("no controls")
    ours = found.membership.roc
    own = next(one.rate for one in ours.rates if one.false_positive_rate == FALSE_POSITIVES)
    share, apart = own.hits / own.of, abs(own.hits / own.of - rate)
    return [
        f"| area under ROC, `mia_reference` | {ours.area:.4f} | {area:.4f} | {abs(ours.area - area):.4f} |",
        f"| true positives at 1 % false ones, of the same score | {share:.3f} | {rate:.3f} | {apart:.3f} |",
    ]


def rows(results: list[SnippetResult], others: list[Peer]) -> list[str]:
    """Return the table's rows: ours, theirs, and where they differ."""
    rules = [result.rule for result in results if result.rule is not None]
    flags = [argmax_flags(result.score) for result in results if result.score is not None]
    count = len(results)
    memorization = [exact_memorization(one) for one in flags]
    strength = [extraction_strength(one) for one in flags]
    greedy = sum(rule.rank1 for rule in rules)
    same = sum(rule.rank1 == other.greedy for rule, other in zip(rules, others, strict=True))
    apart = max(abs(rule.log_pz - other.logprob) for rule, other in zip(rules, others, strict=True))
    shares = [
        ("exact memorization (mean)", memorization, [o.memorization for o in others]),
        ("extraction strength, as defined (mean)", strength, [o.strength for o in others]),
        (
            "extraction strength, as published in code (mean)",
            strength,
            [o.published_strength for o in others],
        ),
        ("log10 n for 50 %, Hayes (mean)", [r.log10_n50 for r in rules], [o.log10_n for o in others]),
    ]
    theirs_greedy = sum(other.greedy for other in others)
    agree = f"{greedy} of {count} | {theirs_greedy} of {count} | {count - same} differ"
    lines = [
        f"| `is_greedy`, lm-evaluation-harness | {agree} |",
        f"| log-probability of the target, lm-evaluation-harness | | | {apart:.3f} nats at most |",
    ]
    for name, ours, theirs in shares:
        largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        lines.append(
            f"| {name} | {sum(ours) / count:.3f} | {sum(theirs) / count:.3f} | {largest:.3f} at most |"
        )
    bound = math.log10(SAMPLES)
    extractable = [rule.log10_n50 <= bound for rule in rules]
    theirs = [other.log10_n <= bound for other in others]
    differ = sum(a != b for a, b in zip(extractable, theirs, strict=True))
    lines.append(
        f"| ({SAMPLES}, 50 %)-discoverable, Hayes | {sum(extractable)} of {count} | {sum(theirs)} of {count} | "
        f"{differ} differ |"
    )
    verbatim = sum(result.match is not None and result.match.verbatim for result in results)
    certified = sum(rule.certified for rule in rules)
    lines.append(f"| decoded verbatim by the engine | {verbatim} of {count} | none has it | |")
    lines.append(f"| certified by the rule | {certified} of {count} | none has it | |")
    return lines


def main() -> None:
    """Audit, ask the others, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("server", "adapter", "tokenizer", "candidates", "controls"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    sets = {
        Group.CANDIDATES: load_input(Path(given.candidates)),
        Group.CONTROLS: load_input(Path(given.controls)),
    }
    with HttpScorer(given.server) as scorer:
        result = run_audit(scorer, given.adapter, sets, AuditSettings())
    results = [one for one in result.snippets if one.group is Group.CANDIDATES]
    others = peers(given.server, given.adapter, Path(given.tokenizer), results)
    tool = result.engine
    sys.stdout.write(
        f"{given.adapter}, rank {result.adapter.rank}, on {tool.base} ({tool.scheme}), {tool.engine}\n\n"
    )
    sys.stdout.write("| measure | lorecall | the other | difference per snippet |\n|---|---|---|---|\n")
    against = by_reference(given.server, given.adapter, Path(given.tokenizer), result)
    sys.stdout.write("\n".join([*rows(results, others), *membership_rows(result, *against)]) + "\n")


if __name__ == "__main__":
    main()
