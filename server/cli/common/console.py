"""What commands print: lines on stdout and stderr, JSON on stdout."""

import json
import sys

from lorecall.adapters.core.errors import LorecallError
from rich.console import Console


def say(text: str) -> None:
    """Print one line on stdout."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False)


def note(text: str) -> None:
    """Print one line on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def show_error(error: LorecallError) -> None:
    """Print an error and its hint on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {error.message}", markup=False, style="bold red")
    if error.hint:
        console.print(f"hint: {error.hint}", markup=False)


def print_json(value: object) -> None:
    """Print a value as JSON on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
