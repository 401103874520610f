"""SIGTERM while vLLM waits for its engine ends the start."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq
from lorecall.server.engine.processes import interrupted_start
from vllm.v1.engine import utils


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module as vLLM publishes it: a test before this one may have loaded our plugins."""
    spec = importlib.util.find_spec(utils.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(utils, "zmq_socket_ctx", module.zmq_socket_ctx)  # put back after the test


def wait(folder: Path, reason: BaseException) -> bool:
    """Wait for an engine as vLLM does, interrupted by an exception; whether the exception came through.

    pytest must not see the interrupt: it would end the run.
    """
    came: list[BaseException] = []
    try:
        with utils.zmq_socket_ctx(f"ipc://{folder}/socket", zmq.ROUTER, bind=True) as socket:
            socket.close()
            raise reason
    except (KeyboardInterrupt, RuntimeError) as error:
        came.append(error)
    return came == [reason]


def test_vllm_still_swallows_the_interrupt(tmp_path: Path) -> None:
    """Once this fails, upstream has mended it: delete interrupted_start.py."""
    assert not wait(tmp_path, KeyboardInterrupt())


def test_ours_lets_it_through(tmp_path: Path) -> None:
    """And every other exception, as before."""
    interrupted_start.apply()
    assert wait(tmp_path, KeyboardInterrupt("terminated"))
    assert wait(tmp_path, RuntimeError("else"))


def test_a_swallowed_signal_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever swallows the interrupt that vLLM's handler raises: the start stops at the next check."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    entry = SimpleNamespace(setup_server=lambda args, reuse_port: (args, reuse_port))
    monkeypatch.setattr(interrupted_start, "_seen", [])
    monkeypatch.setitem(sys.modules, interrupted_start.ENTRY, entry)
    interrupted_start.apply()
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        assert entry.setup_server("args", reuse_port=False) == ("args", False)
        interrupted_start.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted_start.is_stopping()
        with pytest.raises(KeyboardInterrupt, match="terminated"):
            interrupted_start.check()
    finally:
        signal.signal(signal.SIGTERM, before)
