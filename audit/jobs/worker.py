"""The thread that does audits while a server runs."""

import logging
import threading
from collections.abc import Callable

from lorecall.adapters.core.errors import LorecallError
from lorecall.audit.jobs.runner import Runner

logger = logging.getLogger("lorecall.audit")

IDLE_SECONDS = 2.0
SWEEP_EVERY = 300
STOP_SECONDS = 10.0


class Worker:
    """Runs audits one after the other until it is closed.

    Args:
        runner: Does one audit.
        refresh: Called before and after each audit, and every `IDLE_SECONDS`; it may read the database, and queue
            audits.
    """

    def __init__(self, runner: Runner, refresh: Callable[[], None]) -> None:
        self._runner = runner
        self._refresh = refresh
        self._wake = threading.Event()
        # A daemon: a batch that waits for a dead engine must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="audits", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def close(self) -> None:
        """Stop after the current batch, or after `STOP_SECONDS`: then the lease runs out and another goes on."""
        self._runner.stop.set()
        self._wake.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        rounds = 0
        while not self._runner.stop.is_set():
            if not self._round(sweep=rounds % SWEEP_EVERY == 0):
                self._wake.wait(IDLE_SECONDS)
            self._wake.clear()
            rounds += 1

    def _round(self, *, sweep: bool) -> bool:
        try:
            if sweep:
                self._runner.sweep()
            self._refresh()
            worked = self._runner.run_one()
            if worked:
                self._refresh()
        except LorecallError as error:
            logger.warning("audits wait: %s", error.message)
            return False
        except Exception as error:  # noqa: BLE001  the thread must survive, and log no text
            logger.error("audits stumbled over %s", type(error).__name__)  # noqa: TRY400
            return False
        return worked
