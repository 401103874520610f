"""Measure what each malicious file costs to refuse: a program that gets a directory and writes JSON.

Each is made in one process and refused in another, both forked from one that has imported everything, so that
only the refusal is counted.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from lorecall.adapters.core.refusals import RefusedError
from lorecall.adapters.intake.archive import unpack
from lorecall.adapters.validation.base_facts import read_base_facts
from lorecall.adapters.validation.policy import AdapterLimits, validate_adapter

from tests.adapters import malicious, malicious_archives, spoiling

MAX_CPU_S = 20
ROOM = 256 << 20
SERVED = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"})
LIMITS = AdapterLimits(max_rank=64, served_modules=SERVED)


def _apart(work: Callable[[], object]) -> tuple[int, resource.struct_rusage]:
    """Do something in a forked process; its exit code (a signal's is negative) and what it used."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
        code = 2
        try:
            work()
            code = 1
        except RefusedError:
            code = 0
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), used


def _measure(refuse: Callable[[], object]) -> tuple[int, float, float]:
    """Exit code (0: refused), MiB of memory over that of a process that does nothing, and seconds of CPU."""
    _, nothing = _apart(lambda: None)
    code, used = _apart(refuse)
    return code, (used.ru_maxrss - nothing.ru_maxrss) / 1024, used.ru_utime + used.ru_stime


def main(directory: Path) -> None:
    base = read_base_facts(spoiling.write_base(directory / "base"))
    costs = {}
    for number, (kind, (_, spoil)) in enumerate(malicious.SPOILERS.items()):
        adapter = directory / f"adapter-{number}"
        _apart(lambda adapter=adapter, spoil=spoil: spoil(spoiling.write_adapter(adapter)))  # type: ignore[misc]
        costs[kind] = _measure(lambda adapter=adapter: validate_adapter(adapter, base, LIMITS))  # type: ignore[misc]
    builders = {kind: build for kind, (_, build) in malicious_archives.ARCHIVES.items()}
    for number, (kind, build) in enumerate({**builders, **malicious_archives.BOMBS}.items()):
        file, target = directory / f"archive-{number}", directory / f"unpacked-{number}"
        target.mkdir()
        _apart(lambda file=file, build=build: file.write_bytes(build()))  # type: ignore[misc]
        with file.open("rb") as archive:
            # Some are refused for their size alone, so only bombs are given more room.
            room = ROOM if kind in malicious_archives.BOMBS else malicious_archives.MAX_BYTES
            costs[f"archive: {kind}"] = _measure(
                lambda archive=archive, target=target, room=room: unpack(archive, target, max_bytes=room)  # type: ignore[misc]
            )
    sys.stdout.write(json.dumps(costs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
