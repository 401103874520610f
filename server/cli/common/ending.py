"""How the process of a server ends."""

import atexit
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.cli.common.console import show_error
from lorecall.server.engine.processes.interrupted_start import is_stopping

INTERNAL = 3
"""A fault of ours, or an end that nobody chose: 1 is for leaks alone."""
LEAKS = 1
INTERRUPTED = 130


@contextmanager
def process_ends_here() -> Iterator[None]:
    """End the process after the block, with the block's exit code, once what was registered at exit has run.

    The interpreter is not taken apart: libraries of the engine that are bound with nanobind would print a page
    about objects that are still in use then.
    """
    code = 0
    try:
        yield
    except LorecallError as error:
        show_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as error:
        code = exit_code(error)
    except BaseException:  # noqa: BLE001  the interpreter would print it likewise
        code = INTERNAL
        if not is_stopping():  # else it is the interrupt in other words
            traceback.print_exc()
    if is_stopping():
        code = INTERRUPTED
    atexit._run_exitfuncs()  # noqa: SLF001  as the interpreter would
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_code(end: SystemExit) -> int:
    """Return with which code a process ends: 1 only where a command chose it by `typer.Exit`.

    A library that gives up, a broken pipe and an aborted prompt end with 1 as well, and are no leaks.
    """
    if end.code is None:
        return 0
    chosen = isinstance(end.__context__, typer.Exit)
    return end.code if isinstance(end.code, int) and (end.code != LEAKS or chosen) else INTERNAL
