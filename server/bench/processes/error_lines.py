"""The last errors in a process's log, short enough for an error message."""

from pathlib import Path

LINES = 3
CHARACTERS = 300


def error_lines(log: Path) -> str:
    """Return a log's last lines that name an error, each cut because vLLM prints its whole configuration."""
    lines = log.read_text(errors="replace").splitlines()
    named = [line for line in lines if "Error" in line or "rror:" in line or "Killed" in line] or lines
    return "\n".join(line.strip()[:CHARACTERS] for line in named[-LINES:])
