"""`lorecall serve`."""

from typing import Annotated

import typer

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Flags that are not ours go to vLLM unchanged."""


def serve(
    context: typer.Context,
    base: Annotated[str, typer.Option(help="Base model: a directory, or hf://org/name.")],
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
) -> None:
    """Serve a base and its adapters: vLLM's own OpenAI server with our plugins.

    Every other flag is vLLM's, spelt as `vllm serve` spells it, such as --host, --max-loras, --max-lora-rank,
    --max-model-len, --api-key. Without --host the server listens on loopback only.
    """
    from lorecall.server import launch

    launch.serve(base, port, context.args)
