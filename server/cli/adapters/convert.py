"""`lorecall adapters convert`, and the same on the way into a server."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from lorecall.adapters.core.errors import UsageError
from lorecall.server.cli.common.console import note, say

if TYPE_CHECKING:
    from lorecall.adapters.convert.convert import Conversion

Base = Annotated[
    Path | None,
    typer.Option(
        help="The prepared base: DoRA and fused experts need it, and names of modules are looked up in it."
    ),
]
Initial = Annotated[
    Path | None,
    typer.Option(help="The adapter before its training, for PiSSA, OLoRA, CorDA and LoftQ."),
]
Rank = Annotated[int | None, typer.Option(min=1, help="Rank of a DoRA's result; twice its own if not given.")]


def convert(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that the trainer wrote.")],
    out: Annotated[Path, typer.Option(help="The PEFT directory to write.")],
    base: Base = None,
    initial: Initial = None,
    rank: Rank = None,
) -> None:
    """Make a plain LoRA of what a trainer saved: .bin, shards, MLX, PiSSA, DoRA, fused experts, other names."""
    from lorecall.adapters.convert.convert import convert_adapter

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already", hint="name a new directory", param="out")
    for line in _said(convert_adapter(source, out, base=base, initial=initial, rank=rank)):
        say(line)


@contextmanager
def converted(source: Path, base: Path | None, initial: Path | None, rank: int | None) -> Iterator[Path]:
    """Yield an archive of the plain LoRA that an adapter on this machine gives; it is valid during the block."""
    if not source.is_dir():
        raise UsageError(
            f"{source} is no folder on this machine, and --convert works on this machine",
            hint="download the adapter first, such as with: hf download ORG/NAME --local-dir DIR",
            param="source",
        )
    from lorecall.adapters.convert.convert import convert_adapter

    with tempfile.TemporaryDirectory() as work:
        plain, archive = Path(work, "adapter"), Path(work, "adapter.tar")
        for line in _said(convert_adapter(source, plain, base=base, initial=initial, rank=rank)):
            note(line)
        with tarfile.open(archive, "w") as packed:
            for file in sorted(plain.iterdir()):
                packed.add(file, file.name)
        yield archive


def _said(result: "Conversion") -> list[str]:
    """Return what a conversion did, in lines."""
    return [*result.steps, f"a plain LoRA of rank {result.rank} on {result.modules} modules"]
