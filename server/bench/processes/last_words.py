"""What a process that died wrote about it, short enough for an error message."""

from pathlib import Path

LINES = 3
CHARACTERS = 300


def last_words(log: Path) -> str:
    """Return the last lines of a log that name an error, each cut short; vLLM dumps its whole configuration."""
    lines = log.read_text(errors="replace").splitlines()
    named = [line for line in lines if "Error" in line or "rror:" in line or "Killed" in line] or lines
    return "\n".join(line.strip()[:CHARACTERS] for line in named[-LINES:])
