"""`lorecall audit serve`."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from lorecall.server.cli.common.options import Port


def serve(
    *,
    server: Annotated[str, typer.Option(metavar="URL", help="The lorecall server that scores.")],
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Database of audits and API keys; the settings' registry by default."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8001,
    spool: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the texts of unfinished audits.")
    ] = None,
) -> None:
    """Serve `/v1/audits`, `/v1/capacity`, `/metrics` and the page `/audit/` without an engine of its own.

    The server computes the scores; its API key is LORECALL_API_KEY. Other settings are those of `lorecall serve`.
    Audits continue where they were after a restart, even if the service was killed.
    """
    import uvicorn
    from lorecall.server.audits.app import make_app
    from lorecall.server.launch import check_port
    from lorecall.server.settings import read_settings

    given = {"LORECALL_REGISTRY": registry, "LORECALL_AUDIT_SPOOL": spool and str(spool.absolute())}
    os.environ.update({name: value for name, value in given.items() if value})
    settings = read_settings()
    check_port(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = make_app(server, settings.open_registry(), settings, host)
    uvicorn.run(app, host=host, port=port, log_level="info")
