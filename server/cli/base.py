"""`lorecall base`: fetch and quantise a base model."""

import logging
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from lorecall.server.cli.common.console import say

VERIFIED_BELOW = 2_000_000_000
"""Parameters up from which a base is verified only if asked: the reference needs 4 bytes for each."""

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
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Start an engine over it and compare four texts with transformers; refuse a model that the"
            " engine computes wrongly.",
            show_default="on below 2B parameters",
        ),
    ] = None,
) -> None:
    """Make a model directory that stock vLLM loads, with a manifest of its source, digest and scheme."""
    from lorecall.adapters.bases.locate import find_base
    from lorecall.adapters.bases.multimodal import text_class
    from lorecall.adapters.bases.prepare import prepare_base
    from lorecall.adapters.bases.quantize import INT4, INT8, left_float
    from lorecall.server.cli.common.progress import quiet_libraries, steps_bar

    quiet_libraries()
    if find_spec("vllm") is not None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # stdout is for what was made
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # it warns before it reads that
        from lorecall.server.engine.start.families import check_class, check_family

        found = find_base(from_)
        numbers = verify is not False
        check_family(str(found.directory), numbers=numbers)  # before the minutes that it takes to quantise it
        check_class(text_class(found), numbers=numbers)
    skipped: list[str] = []
    with steps_bar() as on_step:
        prepared = prepare_base(
            out,
            from_,
            quantize,
            force=force,
            check=lambda path, manifest: _verified(path, manifest.scheme, verify, skipped),
            on_step=on_step,
        )
    manifest = prepared.manifest
    say(f"{'Reused' if prepared.reused else 'Prepared'} {out}: {manifest.name}, {manifest.scheme}")
    say(f"  why this scheme  {manifest.reason}")
    say(f"  source           {manifest.source}")
    say(f"  digest           {manifest.digest}")
    say(f"  serve in         {manifest.dtype}")
    for pattern in left_float(out) if manifest.scheme in (INT8, INT4) else ():
        say(f"  not quantised    {pattern.removeprefix('re:')}")
    if manifest.verified is not None:
        say(
            f"  verified         {manifest.verified['tokens']:.0f} tokens are within"
            f" {manifest.verified['mean']:.1g} nats of transformers' on average"
        )
    for reason in skipped:
        say(f"  not verified     {reason}")


def _verified(
    path: Path,
    scheme: str,
    asked: bool | None,
    skipped: list[str],
) -> dict[str, float] | None:
    """Verify a prepared base if that is asked for, or on by default and possible; else note why not.

    Raises:
        BaseModelError: The engine computes it wrongly or not at all, or what was asked for is not possible here.
    """
    from lorecall.adapters.bases.quantize import parameter_count
    from lorecall.adapters.core.errors import BaseModelError

    count = parameter_count(path)
    if asked is False:
        reason = "--no-verify"
    elif asked is None and count >= VERIFIED_BELOW:
        reason = f"{count / 1e9:.1f}B parameters: --verify asks for it"
    else:
        from lorecall.server.bench.verify_base import verify_base, why_not
        from lorecall.server.engine.start.families import check_packages

        reason = why_not(path, scheme)
        if not reason:
            check_packages(str(path))
            return asdict(verify_base(path))
        if asked:
            raise BaseModelError(
                f"cannot verify it here: {reason}", hint="leave --verify out", param="verify"
            )
    skipped.append(reason)
    return None
