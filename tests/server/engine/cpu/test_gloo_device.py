"""A worker that is alone has one thread of gloo's that wakes up by itself, not one for each group."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = 5
WORKER = f"""
import json, os, sys
import torch, torch.distributed as dist
folder, rank, size, fixed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "fixed"
if fixed:
    from lorecall.server.engine.cpu import gloo_device
    gloo_device.apply()
dist.init_process_group("gloo", init_method=f"file://{{folder}}/store", rank=rank, world_size=size)
groups = [dist.new_group(list(range(size)), backend="gloo") for _ in range({GROUPS})]
sums = []
for number, group in enumerate(groups):
    total = torch.tensor([float(rank + number)])
    dist.all_reduce(total, group=group)
    sums.append(total.item())
    dist.barrier(group=group)
gathered = [None] * size
dist.all_gather_object(gathered, rank, group=groups[0])
names = [open(f"/proc/self/task/{{one}}/comm").read().strip() for one in os.listdir("/proc/self/task")]
for group in groups:
    dist.destroy_process_group(group)
dist.destroy_process_group()
print(json.dumps([names.count("gloo_tcp_loop"), sums, gathered]))
"""


def workers(folder: Path, size: int, kind: str) -> list[list[object]]:
    """Run so many processes with some groups; return of each its devices, sums, and who is there."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(rank), str(size), kind], stdout=subprocess.PIPE
        )
        for rank in range(size)
    ]
    return [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]


@pytest.mark.parametrize(
    ("kind", "devices"),
    [("fixed", 1), ("stock", GROUPS + 1)],  # when the second fails, torch needs the fix no more
)
def test_one_process_has_one_device_and_all_of_its_groups_work(
    tmp_path: Path, kind: str, devices: int
) -> None:
    """They sum, wait and gather as before, and are destroyed one by one."""
    assert workers(tmp_path, 1, kind) == [[devices, [0.0, 1.0, 2.0, 3.0, 4.0], [0]]]


def test_groups_of_two_processes_are_left_alone(tmp_path: Path) -> None:
    """Each keeps a device of its own."""
    found = [GROUPS + 1, [1.0, 3.0, 5.0, 7.0, 9.0], [0, 1]]
    assert workers(tmp_path, 2, "fixed") == [found, found]
