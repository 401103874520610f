"""The process that engines and servers for tests are forked from: what they import is imported once.

Run as `python -m tests.forked` with a socket for stdin: a message holds the arguments of `vllm.LLM` for one more
engine host, or the words of a command line for one more `lorecall`, and its environment. It comes with its
stdin, stdout and stderr; the answer is its process id.
"""

import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

import vllm.entrypoints.openai.api_server
import vllm.v1.engine.core
import vllm.v1.worker.cpu_worker  # noqa: F401  imported before the fork, for all
from lorecall.server.bench.processes import engine_host
from lorecall.server.cli.main import main as command
from vllm.model_executor.models import registry

LONGEST = 1 << 16
"""Bytes of a message at most."""


def main() -> None:
    """Fork a process for each message until there are no more."""
    # vLLM looks at a model's class in a process of its own, which would import everything again for each family
    registry._run_in_subprocess = lambda look: look()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for an engine
    jobs = socket.socket(fileno=os.dup(0))
    while True:
        message, files, _, _ = socket.recv_fds(jobs, LONGEST, 3)
        if not message:
            return
        sys.stdout.flush()  # or the fork would write it again
        if not (child := os.fork()):
            jobs.close()
            os._exit(_run(json.loads(message), files))
        for one in files:
            os.close(one)
        jobs.send(str(child).encode())


def _run(job: dict[str, Any], files: list[int]) -> int:
    """Be an engine host or a command in this process; return the exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.update(job["environ"])
    sys.stdin = os.fdopen(0)
    try:
        if "words" in job:
            sys.argv = ["lorecall", *job["words"]]
            command()
        else:
            sys.argv = ["engine_host", json.dumps(job["arguments"])]
            engine_host.main()
    except BaseException:  # noqa: BLE001  whatever ends it is in its log
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()
