"""`lorecall registry`: the database of names, versions, keys and audits."""

from typing import Annotated

import typer

app = typer.Typer(help="The database of names, versions, keys and audits.", no_args_is_help=True)


@app.callback()
def registry() -> None:
    """The database of names, versions, keys and audits."""


@app.command("migrate")
def migrate(
    url: Annotated[
        str,
        typer.Option(
            "--registry",
            envvar="LORECALL_REGISTRY",
            help="sqlite:///path or postgresql://user@host/database.",
            show_default=False,
        ),
    ],
) -> None:
    """Migrate the database to this release's schema and print the schema's revision; run it before a new release.

    A server does the same at its start. Of several migrations at once, one runs and the others wait.
    """
    from lorecall.adapters.registry.database import Database
    from sqlalchemy import text

    database = Database(url)
    try:
        with database.read() as session:
            revision = session.scalars(text("SELECT version_num FROM alembic_version")).one()
    finally:
        database.close()
    typer.echo(revision)
