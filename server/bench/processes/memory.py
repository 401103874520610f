"""Memory of the engine of a server that was started here."""

from pathlib import Path


def worker_mib(pid: int, *, peak: bool = False) -> int:
    """Return the resident memory of a server's worker, its largest process, in MiB.

    Args:
        pid: The server's process, the leader of its own process group.
        peak: Whether to return the largest value since its start.
    """
    found = [_status(task) for task in Path("/proc").glob("[0-9]*/status")]
    ours = [fields for fields in found if fields.get("NSpgid", "0").split()[0] == str(pid)]
    return max(int(fields.get("VmHWM" if peak else "VmRSS", "0 kB").split()[0]) for fields in ours) // 1024


def _status(path: Path) -> dict[str, str]:
    try:
        return dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
    except OSError:  # the process has ended
        return {}
