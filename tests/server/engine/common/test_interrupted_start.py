"""SIGTERM while vLLM waits for its engine ends the start."""

from pathlib import Path

import pytest
import zmq
from lorecall.server.engine.common import interrupted_start
from vllm.v1.engine import utils


def wait(folder: Path, reason: BaseException) -> None:
    """Wait for an engine as vLLM does, interrupted by an exception."""
    with utils.zmq_socket_ctx(f"ipc://{folder}/socket", zmq.ROUTER, bind=True) as socket:
        socket.close()
        raise reason


def test_vllm_still_swallows_the_interrupt(tmp_path: Path) -> None:
    """Once this fails, upstream has mended it: delete interrupted_start.py."""
    wait(tmp_path, KeyboardInterrupt())


def test_ours_lets_it_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every other exception, as before."""
    monkeypatch.setattr(utils, "zmq_socket_ctx", utils.zmq_socket_ctx)  # put back after the test
    interrupted_start.apply()
    with pytest.raises(KeyboardInterrupt, match="terminated"):
        wait(tmp_path, KeyboardInterrupt("terminated"))
    with pytest.raises(RuntimeError, match="else"):
        wait(tmp_path, RuntimeError("else"))
