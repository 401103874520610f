"""The flags that vLLM is started with."""

import argparse
import os
from unittest import mock

import pytest
from lorecall.server.engine.common.environment import prepare_environment
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
