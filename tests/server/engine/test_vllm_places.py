"""All that we take from vLLM is in the one that is installed; what is not there is named."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.engine import vllm_places

ROOT = Path(__file__).parents[3]


def test_this_vllm_has_all_that_we_take_from_it() -> None:
    """Every fix applies, for each platform, and each name and keyword is there; in a process of its own."""
    command = [sys.executable, "-m", "tests.server.engine.vllm_places"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(": 0 problems\n")


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module, a name, a keyword and a method of the client; one place of two that exists is enough."""
    tree = ast.parse(
        "from vllm.nowhere import a\n"
        "from vllm.envs import NOTHING\n"
        "try:\n"
        "    from vllm.nowhere import LoRARequest\n"
        "except ImportError:\n"
        "    from vllm.lora.request import LoRARequest\n"
        "LoRARequest(lora_name='x', colour='red')\n"
        "self.engine_client.sing()\n"
        "engine_client.generate()\n"
    )
    monkeypatch.setattr(vllm_places, "trees", lambda: iter([("x.py", tree)]))
    assert list(vllm_places.imports()) == [
        "x.py: no a of vllm.nowhere: No module named 'vllm.nowhere'",
        "x.py: no NOTHING of vllm.envs: No module named 'vllm.envs.NOTHING'; 'vllm.envs' is not a package",
    ]
    assert list(vllm_places.keywords()) == ["x.py:7 calls LoRARequest with colour"]
    (asked,) = vllm_places.client()
    assert asked.startswith("x.py:8: vllm.v1.engine.async_llm.AsyncLLM.sing does not exist")


def test_a_fix_that_fails_is_named() -> None:
    """Whatever it raises, the others are tried."""

    def moved() -> None:
        raise AttributeError("moved")

    assert list(vllm_places.told("a fix", moved)) == ["a fix: AttributeError: moved"]
    assert list(vllm_places.told("a fix", lambda: None)) == []
