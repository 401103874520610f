"""The flags that vLLM is started with."""

import argparse
import os
from unittest import mock

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.server import launch
from lorecall.server.engine.start.environment import prepare_environment
from lorecall.server.launch import engine_flags
from vllm import envs
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal.media import MediaConnector
from vllm.multimodal.media.connector import ImageMediaIO


def parsed(*extra: str) -> argparse.Namespace:
    """Return vLLM's own reading of our command line."""
    flags = engine_flags("model", "model", 8000, ["--dtype", "float32", *extra])
    parser = argparse.ArgumentParser()
    EngineArgs.add_cli_args(parser)
    return parser.parse_known_args(flags)[0]


def test_no_caller_makes_a_base_that_sees_images_fetch_an_address() -> None:
    """By default no host is allowed; the operator may name some, and redirects do not lead away from them."""
    for url in ("http://169.254.169.254/latest/x.png", "http://127.0.0.1/x.png", "https://example.org/x.png"):
        connector = MediaConnector(allowed_media_domains=parsed().allowed_media_domains)
        with pytest.raises(ValueError, match="allowed domains"):
            connector.load_from_url(url, ImageMediaIO())
    assert parsed("--allowed-media-domains", "images.example").allowed_media_domains == ["images.example"]
    with mock.patch.dict(os.environ):
        os.environ.pop("VLLM_MEDIA_URL_ALLOW_REDIRECTS", None)
        prepare_environment()
        assert envs.VLLM_MEDIA_URL_ALLOW_REDIRECTS is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-logprobs", "0"], "--max-logprobs is 0"),
        (["--max_logprobs=-2"], "--max-logprobs is -2"),
        (["--max-cpu-loras", "4"], "--max-cpu-loras is 4, below --max-loras, which is 8"),
        (["--max-loras", "64"], "--max-cpu-loras is 32, below --max-loras, which is 64"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_the_start(flags: list[str], words: str) -> None:
    """One line, instead of a trace of the engine's a minute later, or requests that all fail."""
    with pytest.raises(UsageError) as caught:
        launch.check_numbers(flags)
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "flags",
    [[], ["--max-logprobs", "-1"], ["--max-loras", "2", "--max-cpu-loras", "2"], ["--max-loras", "x"]],
)
def test_other_numbers_pass(flags: list[str]) -> None:
    """No limit is a limit; what is no number is vLLM's to refuse."""
    launch.check_numbers(flags)


@pytest.mark.parametrize(("stated", "taken"), [("24", "32"), ("9", "16"), ("16", ""), ("x", "")])
def test_a_rank_that_the_engine_lacks_is_rounded_up_with_a_word(
    stated: str, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last flag of a name counts; the engine has few limits."""
    pytest.importorskip("vllm.config.lora")
    assert launch.rounded_rank(["--max-lora-rank", stated]) == (["--max-lora-rank", taken] if taken else [])
    assert (f"the next, {taken}" in capsys.readouterr().err) is bool(taken)


@pytest.mark.parametrize(
    "stated", [["--max-lora-rank", "24"], ["--max-lora-rank=24"], ["--max_lora_rank", "24"]]
)
def test_a_rank_that_was_rounded_up_stands_alone(stated: list[str]) -> None:
    """VLLM's parser refuses 24 wherever it stands."""
    flags = launch.replaced_flag([*stated, "--max-loras", "2"], ["--max-lora-rank", "32"])
    assert flags == ["--max-loras", "2", "--max-lora-rank", "32"]
    assert launch.replaced_flag([*stated, "--seed=1"], []) == [*stated, "--seed=1"]
