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
        Path | None, typer.Option(metavar="DIR", help="Folder of the texts of audits that are not over.")
    ] = None,
) -> None:
    """Serve `/v1/audits`, `/v1/capacity`, `/metrics` and the page `/audit/` without an engine of its own.

    Scores come from the server, with the API key of LORECALL_API_KEY. Everything else is set as for `lorecall
    serve`. Stopped at any point, killed even, and started again, it goes on where it was.
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
