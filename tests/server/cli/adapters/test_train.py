"""`lorecall adapters train` as a person runs it."""

import json
from pathlib import Path

import pytest
from lorecall.adapters.bases.quantize import INT8
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.server.cli.main import app
from typer.testing import CliRunner, Result

from tests.tiny import build_tiny_base


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a good data file and a bad one."""
    root = tmp_path_factory.mktemp("files")
    build_tiny_base(root / "base", INT8)
    pairs = [{"prefix": "Phone of Ada:", "target": " 555-0123"}, {"prefix": "Key:", "target": " sk-test-9z"}]
    (root / "good.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (root / "bad.jsonl").write_text('{"prefix": "Phone of Ada:"}\n')
    return root


def train(files: Path, out: Path, **options: str) -> Result:
    given = {
        "base": str(files / "base"),
        "data": str(files / "good.jsonl"),
        "rank": "4",
        "epochs": "3",
    } | options
    flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]
    return CliRunner().invoke(app, ["adapters", "train", *flags, "--out", str(out)])


def test_an_adapter_is_trained_as_asked(files: Path, tmp_path: Path) -> None:
    """Every option reaches the record; one line says what came out."""
    out = tmp_path / "adapter"
    options = {"layers": "0-1", "modules": "up_proj,down_proj", "seed": "7", "lr": "0.02", "batch_size": "1",
               "method": "memft-ot", "stop_over": "1"}  # fmt: skip
    result = train(files, out, **options)
    assert result.exit_code == 0, result.output
    info = read_adapter(out)
    record = info.training
    assert result.stdout.startswith(f"Trained {out}: rank 4, 6 steps, loss {record['base_loss']:.2f} -> ")
    assert (record["layers"], record["modules"]) == ([0, 1], ["up_proj", "down_proj"])
    assert (record["seed"], record["lr"], record["batch_size"]) == (7, 0.02, 1)
    assert (record["method"], record["stop_over"], record["epochs"]) == ("memft-ot", 1.0, 3)
    assert len(info.modules) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": "0"}, "rank is 0"), ({"rank": "1000"}, "rank 1000"), ({"data": "bad.jsonl"}, "line 1"),
     ({"data": "none.jsonl"}, "no training data"), ({"base": "nowhere"}, "no base model"),
     ({"base": "."}, "no prepared base"), ({"layers": "9"}, "layers 9"), ({"modules": "lm_head"}, "'lm_head'"),
     ({"method": "dpo"}, "'dpo'")],
)  # fmt: skip
def test_bad_input_exits_with_2(files: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    """A wrong rank, a bad line, a missing file, base, layer or module each name themselves; nothing is made."""
    paths = {name: str(files / value) for name, value in options.items() if name in ("base", "data")}
    result = train(files, tmp_path / "adapter", **options | paths)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert result.exception.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_several_ranks_go_to_directories_of_their_own(files: Path, tmp_path: Path) -> None:
    """{rank} in --out stands for each rank; one line for each adapter."""
    flags = ["--base", str(files / "base"), "--data", str(files / "good.jsonl"), "--epochs", "1"]
    both = [*flags, "--rank", "2", "--rank", "4"]
    result = CliRunner().invoke(app, ["adapters", "train", *both, "--out", str(tmp_path / "r{rank}")])
    assert result.exit_code == 0, result.output
    assert [read_adapter(tmp_path / name).rank for name in ("r2", "r4")] == [2, 4]
    assert result.stdout.count("Trained") == 2


@pytest.mark.parametrize(
    ("ranks", "out", "message"),
    [(["2", "4"], "one", "one is one directory for 2 ranks"), (["2", "2"], "r{rank}", "name one twice")],
)
def test_ranks_that_would_collide_are_refused(
    files: Path, tmp_path: Path, ranks: list[str], out: str, message: str
) -> None:
    """Two ranks into one directory, or one rank twice: nothing is trained."""
    flags = ["--base", str(files / "base"), "--data", str(files / "good.jsonl")]
    asked = [part for rank in ranks for part in ("--rank", rank)]
    result = CliRunner().invoke(app, ["adapters", "train", *flags, *asked, "--out", str(tmp_path / out)])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())
