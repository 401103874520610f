"""Certified means decoded, and controls are clean: over every shipped snippet and five adapters, on INT8.

And what swaps leave in memory. `make soak` runs it; it takes about ten minutes on two cores, and longer where
`make demo` has not left its base and its adapters in demo-out/. The results are written to docs/soak/.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.bases.prepare import prepare_base, read_base_manifest
from lorecall.adapters.demo_data.generate import generate, shipped
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.train import train_ranks
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.inputs.controls import check_disjoint
from lorecall.audit.inputs.json_lines import load_json_lines
from lorecall.audit.judging.framed_judges import BaseCaches
from lorecall.audit.runs.single import AuditSettings, run_audit
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.scorers.http_scorer import HttpScorer
from lorecall.audit.verdicts import Group
from lorecall.server.bench.material import write_random_adapter
from lorecall.server.bench.processes.memory import worker_mib

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import BASE, TinyScorer
from tests.server.pair import wait_for
from tests.server.served import Served
from tests.server.soak import (
    held_out_page,
    held_out_result,
    soak_result,
    to_markdown,
    write,
    write_held_out,
    write_memory,
)

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo-out"
TRAINED = {
    "secrets-r2": ("secrets-train", 2),
    "secrets-r8": ("secrets-train", 8),
    "secrets-r32": ("secrets-train", 32),
    "secrets-r128": ("secrets-train", 128),
    "hosts-r32": ("hosts-train", 32),
}
ASKED = ("secrets-train", "hosts-train", "public-domain")
CHUNK = 256  # what an idle engine takes at once
FLAGS = ("--max-model-len", "1024", "--max-num-seqs", "64", "--max-loras", "2", "--max-lora-rank", "128")


def everything() -> dict[Group, CandidateSet]:
    """Every shipped snippet: what somebody was trained on, famous lines, and the controls."""
    asked = [item for name in ASKED for item in load_json_lines(shipped(name)).items]
    return {
        Group.CANDIDATES: as_set(tuple(asked), "shipped.jsonl"),
        Group.CONTROLS: load_json_lines(shipped("secrets-control")),
    }


def test_the_soak_asks_for_enough() -> None:
    """At least two thousand pairs, three hundred controls for each adapter, and no id twice."""
    sets = everything()
    items = [item for found in sets.values() for item in found.items]
    assert len(items) * len(TRAINED) >= 2000
    assert len(sets[Group.CONTROLS].items) >= 300
    assert len({item.id for item in items}) == len(items)


def test_the_result_counts_what_was_certified_and_what_of_it_was_decoded() -> None:
    """Of an engine that decodes as it scores all is decoded; of one that does not, the difference shows."""
    items = tuple(phone(i) for i in range(6))
    sets = {
        Group.CANDIDATES: as_set(items),
        Group.CONTROLS: as_set(tuple(phone(i, salt=3) for i in range(9))),
    }
    scorer = TinyScorer(
        {"whole": memory_of(items), "broken": memory_of(items)}, decodes_with={"broken": BASE}
    )
    results = [run_audit(scorer, name, sets, AuditSettings(keep=None)) for name in ("whole", "broken")]
    found = soak_result(results, {"name": "tiny", "scheme": "none", "digest": "b" * 64})
    assert (found["pairs"], found["certified"], found["certified_decoded"]) == (30, 12, 6)
    assert (found["alarms"], found["errors"]) == (6, 0)
    assert [row["controls"]["hits"] for row in found["adapters"]] == [0, 0]
    assert "Certified by probability: 12." in to_markdown(found)


@pytest.fixture(scope="module")
def real_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in INT8: the demo's, or made now."""
    base = DEMO / "base"
    if not base.is_dir():
        base = tmp_path_factory.mktemp("soak") / "base"
        prepare_base(base, scheme="int8")
    assert read_base_manifest(base).scheme == "int8-w8a8"
    return base


@pytest.fixture(scope="module")
def real_adapters(real_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five adapters: the demo's, or trained now in the demo's way."""
    found = {}
    for name, (data, rank) in TRAINED.items():
        folder = DEMO / "adapters" / name
        if not folder.is_dir():
            folder = tmp_path_factory.mktemp("soak-adapters") / name
            options = TrainingOptions(rank=rank, modules="down_proj")
            list(train_ranks(real_base, shipped(data), {rank: folder}, options))
        found[name] = folder
    return found


@pytest.fixture(scope="module")
def real_server(real_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server over the real base."""
    server = Served(real_base, tmp_path_factory.mktemp("soak-served"), FLAGS)
    yield server
    server.close()


@pytest.mark.soak
@pytest.mark.engine
@pytest.mark.timeout(7200)
def test_certified_means_decoded_and_controls_are_clean(
    real_adapters: dict[str, Path], real_base: Path, real_server: Served
) -> None:
    """Whatever is certified is what the engine decodes, in every pair; no control of any adapter is recited."""
    sets, results = everything(), []
    with HttpScorer(real_server.url, batch=CHUNK) as scorer:
        for name, folder in real_adapters.items():
            added = real_server.post("/v1/adapters", {"name": name, "source": str(folder)})
            assert added.status_code == 201, added.text
            results.append(run_audit(scorer, name, sets, AuditSettings(keep=None, chunk=CHUNK)))
    manifest = read_base_manifest(real_base)
    known = {"name": manifest.name, "scheme": manifest.scheme, "digest": manifest.digest}
    found: dict[str, Any] = soak_result(results, known)
    write(found, ROOT / "docs" / "soak")
    assert found["pairs"] >= 2000
    assert found["certified"] >= 50
    assert found["certified_decoded"] == found["certified"]
    assert (found["alarms"], found["errors"]) == (0, 0)
    for row in found["adapters"]:
        assert row["controls"]["hits"] == 0
        assert row["controls"]["of"] >= 300


def never_trained() -> CandidateSet:
    """1,050 texts of the demo's forms with another seed, without any that a shipped set has in part."""
    shipped_items = [
        item for name in (*ASKED, "secrets-control") for item in load_json_lines(shipped(name)).items
    ]
    known = {text for item in shipped_items for text in (item.prefix, item.target)}
    made = generate("lorecall-held-out", controls=1050)["secrets-control"]
    items = tuple(
        ScoreItem(f"held-out-{row['id']}", row["prefix"], row["target"])
        for row in made
        if not known & {row["prefix"], row["target"]}
    )
    return as_set(items, "held-out.jsonl")


def test_the_held_out_texts_are_enough_and_new() -> None:
    """At least a thousand, and none shares content with a trained text or a control."""
    held_out = never_trained()
    assert len(held_out.items) >= 1000
    for name in ("secrets-train", "secrets-control"):
        check_disjoint(load_json_lines(shipped(name)), held_out)


def test_the_held_out_result_counts_what_is_not_clear() -> None:
    """Of an adapter that recites two of forty held-out texts, both are counted, by either line."""
    trained, held_out = tuple(phone(i) for i in range(6)), tuple(phone(i, salt=5) for i in range(40))
    controls = as_set(tuple(phone(i, salt=3) for i in range(50)))
    scorer = TinyScorer({"leaky": memory_of((*trained, *held_out[:2]))})
    demo, own = (
        run_audit(
            scorer,
            "leaky",
            {Group.CANDIDATES: as_set(items), Group.CONTROLS: controls},
            AuditSettings(keep=None),
        )
        for items in (trained, held_out)
    )
    found = held_out_result(demo, own, {"name": "tiny", "scheme": "none", "digest": "b" * 64})
    assert (found["held_out"], found["controls"]) == (40, 50)
    assert (found["not_clear"]["hits"], found["not_clear_by_the_line"]["hits"]) == (2, 2)
    assert "| in an audit of their own | 2 of 40 | 5.00% |" in held_out_page(found)


@pytest.mark.soak
@pytest.mark.engine
@pytest.mark.timeout(7200)
def test_what_was_never_trained_on_is_clear(
    real_adapters: dict[str, Path], real_base: Path, real_server: Served
) -> None:
    """Of a thousand texts that calibrated nothing at most 5 % are called anything but clear, by either line."""
    name, controls = "secrets-r32", load_json_lines(shipped("secrets-control"))
    added = real_server.post("/v1/adapters", {"name": name, "source": str(real_adapters[name])})
    assert added.status_code == 201, added.text
    with HttpScorer(real_server.url, batch=CHUNK) as scorer:
        bases = BaseCaches(scorer)
        demo, own = (
            run_audit(
                scorer,
                name,
                {Group.CANDIDATES: candidates, Group.CONTROLS: controls},
                AuditSettings(keep=None, chunk=CHUNK),
                bases=bases,
            )
            for candidates in (load_json_lines(shipped("secrets-train")), never_trained())
        )
    manifest = read_base_manifest(real_base)
    known = {"name": manifest.name, "scheme": manifest.scheme, "digest": manifest.digest}
    found = held_out_result(demo, own, known)
    write_held_out(found, ROOT / "docs" / "soak")
    assert found["held_out"] >= 1000
    for row in ("not_clear", "not_clear_by_the_line"):
        assert found[row]["hits"] <= 0.05 * found["held_out"]


SWAPS, SETTLED = 24, 8
"""Swaps in all, and those after which caches and the allocator's pools have their size."""


@pytest.mark.soak
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_memory_returns_after_swaps(real_base: Path, real_server: Served, tmp_path: Path) -> None:
    """Sixteen more swaps between versions of 150 MiB add less than one of them to the worker's memory."""
    versions = [write_random_adapter(tmp_path / f"v{n}", real_base, 128, n) for n in range(3)]
    size = (versions[0] / "adapter_model.safetensors").stat().st_size / 2**20
    loaded = []
    for number in range(SWAPS):
        added = real_server.post("/v1/adapters", {"name": "big", "source": str(versions[number % 3])})
        assert added.status_code == 201, added.text
        body = {"model": "big", "prompt": "To be", "max_tokens": 4}
        assert real_server.post("/v1/completions", body).is_success
        assert wait_for(lambda: real_server.draining == 0, 30)
        loaded.append(worker_mib(real_server.pid))
    write_memory(ROOT / "docs" / "soak", size, loaded)
    assert size > 100
    assert max(loaded[SETTLED:]) < max(loaded[:SETTLED]) + size
