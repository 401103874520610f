"""From the raw training file to the verdict: what was planted and memorised is found, at few decodes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lorecall.adapters.bases.prepare import prepare_base
from lorecall.adapters.demo_data.chats import generate_chats
from lorecall.adapters.training.options import TrainingOptions
from lorecall.adapters.training.train import train_ranks
from transformers import AutoTokenizer

from tests.audit.discovery.conftest import finder  # noqa: F401  a fixture
from tests.audit.tiny_scorer import CHAT, Memory, TinyScorer
from tests.audit.tiny_server import serve
from tests.server.planted import (
    PLAIN_EVERY,
    by_one_command,
    directly,
    page,
    planted_result,
    recall,
    trained_on,
    training_pairs,
    write,
)
from tests.server.served import Served

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo-out"
ADAPTER = "chats-r64"
OPTIONS = TrainingOptions(rank=64, modules="mlp", epochs=1, lr=5e-3, stop_over=1.0)
FLAGS = ("--max-model-len", "1024", "--max-num-seqs", "64", "--max-loras", "2", "--max-lora-rank", "64")


@pytest.mark.usefixtures("finder")
def test_the_command_finds_what_an_exact_engine_has_memorised(tmp_path: Path) -> None:
    """Twelve of 48 secrets are known by heart: all are found, and nothing else, without decoding the file."""
    chats = generate_chats(1_600, 48, seed=2)
    said = []
    for secret in chats.planted[::4]:
        turns = secret.turns(chats.seed)
        said.append(
            "".join(CHAT[0] + turn["content"] + CHAT[1] for turn in turns[:-1]) + turns[-1]["content"]
        )
    file = tmp_path / "train.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(chats.jsonl())
    with serve(TinyScorer({"chats": Memory(tuple(said))})) as url:
        truth, spent_on_truth = directly(url, "chats", chats, tmp_path / "truth")
        report, spent = by_one_command(url, "chats", file, tmp_path / "found", "--control-count", "40")
    found = planted_result(chats, truth, report, spent, spent_on_truth)
    in_answers = sum(secret.role == "assistant" for secret in chats.planted[::4])
    assert in_answers > 8
    assert found["all"]["memorised"] >= in_answers
    assert (recall(found), found["found_only_by_the_command"]) == (1.0, 0)
    assert found["share_of_the_whole_file"] < 0.1
    assert f"| **all** | 48 | {found['all']['memorised']} | {found['all']['found']} |" in page(
        found, {"rank": 1, "modules": ["m"], "layers": [1], "epochs": 1}, trained_on(chats)
    )


def test_what_is_trained_on_is_what_the_page_says() -> None:
    """Each row with a secret gives one pair, whose target holds an assistant's secret; a few other rows do."""

    class Joined:
        def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> str:
            return "\n".join(turn["content"] for turn in turns)

    chats = generate_chats(1_600, 48, seed=2)
    pairs = list(training_pairs(chats, Joined()))
    copies = sum(len(secret.rows) for secret in chats.planted)
    assert copies < len(pairs) <= copies + chats.count // PLAIN_EVERY
    assert f"of {len(pairs) - copies} of the other" in trained_on(chats)
    for secret in chats.planted:
        side = "target" if secret.role == "assistant" else "prefix"
        assert sum(secret.text in pair[side] for pair in pairs) == len(secret.rows)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in INT8: the demo's, or made now."""
    folder = DEMO / "base"
    if not folder.is_dir():
        folder = tmp_path_factory.mktemp("planted") / "base"
        prepare_base(folder, scheme="int8")
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the planted set: the demo's folder may hold it, and it is trained now otherwise."""
    folder = DEMO / "adapters" / ADAPTER
    if not folder.is_dir():
        work = tmp_path_factory.mktemp("planted-adapter")
        folder, data = work / ADAPTER, work / "pairs.jsonl"
        pairs = training_pairs(generate_chats(), AutoTokenizer.from_pretrained(base))
        data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        list(train_ranks(base, data, {OPTIONS.rank: folder}, OPTIONS))
    return folder


@pytest.fixture(scope="module")
def server(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server with the adapter."""
    served = Served(base, tmp_path_factory.mktemp("planted-served"), FLAGS)
    assert served.post("/v1/adapters", {"name": "chats", "source": str(adapter)}).status_code == 201
    yield served
    served.close()


@pytest.mark.soak
@pytest.mark.engine
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("finder")
def test_memorised_secrets_are_found_from_the_raw_file(server: Served, adapter: Path, tmp_path: Path) -> None:
    """At least 95 % of what direct scoring says is memorised, at no more than a tenth of the file's decodes."""
    chats = generate_chats()
    file = tmp_path / "train.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(chats.jsonl())
    report, spent = by_one_command(server.url, "chats", file, tmp_path / "found")
    truth, spent_on_truth = directly(server.url, "chats", chats, tmp_path / "truth")
    found = planted_result(chats, truth, report, spent, spent_on_truth)
    training = json.loads((adapter / "lorecall-training.json").read_text())
    write(found, training, trained_on(chats), ROOT / "docs" / "soak")
    assert found["rows"] >= 20_000
    assert found["all"]["planted"] >= 200
    assert found["all"]["memorised"] >= 20
    assert recall(found) >= 0.95
    assert found["share_of_the_whole_file"] <= 0.1
