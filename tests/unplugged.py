"""VLLM without our plugins in the tests' own process."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def unplugged() -> Iterator[None]:
    """Let vLLM believe that it has loaded its plugins, so that it loads none for the block."""
    from vllm import plugins  # noqa: PLC0415  it takes seconds to import

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "plugins_loaded", True)
        yield
