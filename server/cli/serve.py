"""`lorecall serve`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from lorecall.server.cli.common.ending import process_ends_here
from lorecall.server.cli.common.options import Port

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Flags that are not ours are passed to vLLM unchanged."""


def serve(
    context: typer.Context,
    base: Annotated[str, typer.Option(help="Base model: a directory, or hf://org/name.")],
    port: Port = 8000,
    require_audit: Annotated[
        Path | None,
        typer.Option(
            metavar="POLICY.yaml", help="Let an adapter go live only after an audit that meets this policy."
        ),
    ] = None,
    audit_candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Snippets that every adapter is audited for.")
    ] = None,
    default_logprobs: Annotated[
        str | None,
        typer.Option(metavar="auto|on|off", help="Top-1 log-probabilities where a request does not say."),
    ] = None,
    audit_controls: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Controls for every adapter's audit.")
    ] = None,
) -> None:
    """Serve a base and its adapters: vLLM's own OpenAI server with our plugins.

    Every other flag is vLLM's, spelt as `vllm serve` spells it, such as --host, --max-loras, --max-lora-rank,
    --max-model-len, --uvicorn-log-level. Without --host the server listens on loopback only, and without API keys
    it listens nowhere else: see LORECALL_ADMIN_KEY and LORECALL_API_KEYS_FILE.
    """
    from lorecall.server import launch

    own = {
        "LORECALL_REQUIRE_AUDIT": require_audit,
        "LORECALL_AUDIT_CANDIDATES": audit_candidates,
        "LORECALL_AUDIT_CONTROLS": audit_controls,
    }
    if default_logprobs is not None:
        os.environ["LORECALL_DEFAULT_LOGPROBS"] = default_logprobs
    os.environ.update({name: str(path.absolute()) for name, path in own.items() if path is not None})
    with process_ends_here():
        launch.serve(base, port, context.args)
