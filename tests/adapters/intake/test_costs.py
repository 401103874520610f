"""Refusing a malicious file is cheap, whatever is in it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.adapters import malicious, malicious_archives

# A few times what the dearest takes: 16 MiB (the bytes of the largest header), and under a second.
MAX_MIB = 48
MAX_CPU_S = 5


def test_refusing_costs_little(tmp_path: Path) -> None:
    """Each of the corpus is refused in little memory and CPU time, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.adapters.intake.costs", str(tmp_path)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    costs = json.loads(output.splitlines()[-1])
    assert len(costs) == sum(
        map(len, (malicious.SPOILERS, malicious_archives.ARCHIVES, malicious_archives.BOMBS))
    )
    dear = {
        kind: (code, mib, cpu_s)
        for kind, (code, mib, cpu_s) in costs.items()
        if code != 0 or mib > MAX_MIB or cpu_s > MAX_CPU_S
    }
    assert not dear
