"""Many engines out of one process: what an engine imports is imported once, and each engine is a fork of that.

Run as `python -m tests.families.forked`. Each line on stdin is a job: `arguments` of `vllm.LLM`, `rounds` of
requests as `engine_host` takes them, and a `log` for what the engine prints. The answer is one line for each job.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import vllm.v1.engine.core
import vllm.v1.worker.cpu_worker  # noqa: F401  imported before the fork, for all engines
from lorecall.server.bench.processes import engine_host
from vllm import LLM
from vllm.model_executor.models import registry


def main() -> None:
    """Answer jobs until stdin ends."""
    # vLLM looks at a model's class in a process of its own, which would import everything again for each family
    registry._run_in_subprocess = lambda look: look()
    for line in sys.stdin:
        job = json.loads(line)
        answers = Path(job["log"] + ".answers")
        child = os.fork()
        if not child:
            os._exit(_engine(job, answers))
        _, status = os.waitpid(child, 0)
        engine_host._answer(json.loads(answers.read_text()) if not status else {"error": _last_error(job)})


def _engine(job: dict[str, Any], answers: Path) -> int:
    """Start an engine in this process and write its answers; return the exit status."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        engine = LLM(**job["arguments"])
        rounds = [engine_host._run(engine, requests)["answers"] for requests in job["rounds"]]
        answers.write_text(json.dumps(rounds))
    except Exception:  # noqa: BLE001  whatever ends an engine is its job's answer
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def _last_error(job: dict[str, Any]) -> str:
    """Return the last line of a log: the error's own."""
    return Path(job["log"]).read_text(errors="replace").strip().rpartition("\n")[2][:300]


if __name__ == "__main__":
    main()
