"""`lorecall base`: fetch and quantise a base model."""

from pathlib import Path
from typing import Annotated

import typer
from lorecall.server.cli.common.console import say

app = typer.Typer(no_args_is_help=True, help="Fetch and quantise the base model.")


@app.callback()
def base() -> None:
    """Without a callback, Typer would drop the name of the only command, `prepare`."""


@app.command()
def prepare(
    out: Annotated[Path, typer.Option(help="The model directory to make.")],
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="A model directory, .gguf file or hub id.", show_default="SmolLM2"
        ),
    ] = None,
    quantize: Annotated[
        str,
        typer.Option(
            metavar="auto|int8|int4|fp8|none", help="The scheme; auto chooses by this machine's hardware."
        ),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Make it again if it exists already.")] = False,
) -> None:
    """Make a model directory that stock vLLM loads, with a manifest of its source, digest and scheme."""
    from lorecall.adapters.bases.prepare import prepare_base
    from lorecall.server.cli.common.progress import quiet_libraries, steps_bar

    quiet_libraries()
    with steps_bar() as on_step:
        prepared = prepare_base(out, from_, quantize, force=force, on_step=on_step)
    manifest = prepared.manifest
    say(f"{'Reused' if prepared.reused else 'Prepared'} {out}: {manifest.name}, {manifest.scheme}")
    say(f"  why this scheme  {manifest.reason}")
    say(f"  source           {manifest.source}")
    say(f"  digest           {manifest.digest}")
    say(f"  serve in         {manifest.dtype}")
