"""`lorecall plan` as a person runs it: on a machine without a GPU, with a card named or described."""

import json

import pytest
import torch
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.main import app
from lorecall.server.cli.plan import find_card, gpu_here
from typer.testing import CliRunner, Result

from tests.tiny import build_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny_base(tmp_path_factory.mktemp("plan") / "base"))


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_a_plan_names_slots_cache_and_bound(base: str) -> None:
    """And says that it is computed."""
    shown = plan("--base", base, "--gpu", "l4", "--adapters", "4", "--rank", "8")
    assert shown.exit_code == 0
    for part in ("4 of rank 8", "KV cache left", "fit beside 32 requests", "1 requests", "not measured"):
        assert part in shown.stdout


def test_json_has_the_same_numbers(base: str) -> None:
    """A described card is as good as one of the table."""
    named = json.loads(plan("--base", base, "--gpu", "L4", "--json").stdout)
    described = json.loads(plan("--base", base, "--memory", "24", "--bandwidth", "300", "--json").stdout)
    assert named == described
    assert named["slots"] == 8 * named["slot"]


def test_without_a_gpu_it_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a description is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for memory in (None, 24.0):
        with pytest.raises(UsageError, match="no GPU") as caught:
            find_card(None, memory, None)
        assert "--memory and --bandwidth" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
    ],
)
def test_the_gpu_here_is_found_by_its_name(name: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the driver writes it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: name)
    assert gpu_here() == found


def test_a_gpu_that_is_not_in_the_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to describe it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "Radeon Nova")
    with pytest.raises(UsageError, match="RADEON-NOVA is not in the table"):
        gpu_here()
