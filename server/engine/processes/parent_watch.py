"""Ends an engine's processes when the process that started them is gone, whatever ended it.

vLLM 0.32 leaves that to the server's own shutdown: one that was killed left an engine behind, with its memory. A
forked engine also holds the server's port, where a client would wait for an answer that nobody gives.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing.util import register_after_fork

ENGINE_PROCESSES = ("EngineCore", "VllmWorker")
"""How vLLM's names of them begin."""


def apply() -> None:
    """Watch the parent in every process of an engine: in this one, if it is one, and in those that it forks."""
    watch_parent()
    register_after_fork(watch_parent, lambda watch: watch())


def watch_parent() -> None:
    """Have this process killed when its parent ends, if it is one of an engine's."""
    parent = multiprocessing.parent_process()
    if parent is None or not multiprocessing.current_process().name.startswith(ENGINE_PROCESSES):
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, name="lorecall-parent", daemon=True).start()
