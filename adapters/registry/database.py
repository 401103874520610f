"""The registry's database: SQLite or PostgreSQL, its migrations, and its transactions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from lorecall.adapters.core.errors import LorecallError, UsageError
from lorecall.adapters.registry.tables import CounterRow
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text, update
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.orm import Session

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x10EC_A11
_BUSY_SECONDS = 30
_BUGS = (IntegrityError, ProgrammingError, DataError)  # errors of our code: they are not translated


class RegistryUnavailableError(LorecallError):
    """The registry's database cannot be reached or did not answer."""

    status = 503
    code = "registry_unavailable"


class NewerRegistryError(LorecallError):
    """The registry's database was migrated by a newer release of lorecall."""

    exit_code = 2
    status = 503
    code = "registry_too_new"


class Database:
    """Sessions on one database, migrated to the newest schema. Safe for threads; give each process its own.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/database`.

    Raises:
        UsageError: The URL is of another kind.
        RegistryUnavailableError: The database cannot be reached.
        NewerRegistryError: Its schema is newer than this release.
    """

    def __init__(self, url: str) -> None:
        self._engine = _create_engine(url)
        self._watch: sqlite3.Connection | None = None
        self._watch_lock = Lock()
        try:
            self._migrate()
        except LorecallError:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    def changed(self) -> object:
        """Return a value that compares unequal after any commit, by any process; it costs microseconds.

        Where that would cost as much as to look what changed, as in PostgreSQL, it never equals the one before.

        Raises:
            RegistryUnavailableError: The database did not answer.
        """
        if self._engine.dialect.name != "sqlite":
            return object()
        # A connection that writes nothing sees all commits: https://sqlite.org/pragma.html#pragma_data_version
        try:
            with self._watch_lock:
                if self._watch is None:
                    path = str(self._engine.url.database)
                    self._watch = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
                return self._watch.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading.

        Raises:
            RegistryUnavailableError: The database did not answer.
        """
        with _translated(), Session(self._engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[tuple[Session, int]]:
        """A session that commits at the end, and its revision; see `next_revision`.

        Raises:
            RegistryUnavailableError: The database did not answer.
        """
        with self.change() as session:
            yield session, next_revision(session)

    @contextmanager
    def change(self) -> Iterator[Session]:
        """A session that commits at the end and leaves the revision alone, for rows that servers do not follow.

        Raises:
            RegistryUnavailableError: The database did not answer.
        """
        with _translated(), self._begin() as connection, Session(connection) as session:
            yield session
            session.flush()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    def _migrate(self) -> None:
        config = _config()
        with _translated(), self._begin() as connection:
            if connection.dialect.name == "postgresql":  # one server at a time; on SQLite the BEGIN locks
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            _check_known(config, connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def schema_revisions(url: str) -> tuple[str | None, str]:
    """Return a database's schema revision, None where it has none yet, and the newest that this release knows.

    Nothing is migrated or made.

    Raises:
        UsageError: The URL is of another kind.
        RegistryUnavailableError: The database cannot be reached.
        NewerRegistryError: Its schema is newer than this release.
    """
    config = _config()
    newest = str(ScriptDirectory.from_config(config).get_current_head())
    engine = _create_engine(url)
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file is not None and not Path(file).exists():
        return None, newest
    try:
        with _translated(), engine.connect() as connection:
            _check_known(config, connection)
            return MigrationContext.configure(connection).get_current_revision(), newest
    finally:
        engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _check_known(config: Config, connection: Connection) -> None:
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise NewerRegistryError(
            f"the registry's database is at schema revision {', '.join(sorted(unknown))}, and this release of"
            f" lorecall knows revisions up to {scripts.get_current_head()}",
            hint="run the newer release that migrated it, or restore the backup from before that migration",
            param="registry",
        )


def next_revision(session: Session) -> int:
    """Raise the registry's revision and return it.

    Its row is locked until the transaction ends, so writers take turns: a reader that sees revision n has seen
    every change up to n. Rows of audits are locked before it and all other rows after it, against deadlocks.
    """
    session.execute(update(CounterRow).values(value=CounterRow.value + 1))
    return session.scalars(select(CounterRow.value)).one()


def _create_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _bad_url(str(url)) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        if parsed.drivername == "postgresql+psycopg":
            return create_engine(
                parsed, pool_pre_ping=True, hide_parameters=True, connect_args={"connect_timeout": 10}
            )
        if parsed.drivername == "sqlite" and parsed.database:
            return _create_sqlite(parsed)
    except (ImportError, NoSuchModuleError) as error:
        raise UsageError(
            "PostgreSQL needs the psycopg driver", hint="pip install lorecall[postgres]", param="registry"
        ) from error
    raise _bad_url(parsed.render_as_string(hide_password=True))


def _bad_url(url: str) -> UsageError:
    return UsageError(
        f"{url!r} is no URL of a registry",
        hint="sqlite:///registry.db or postgresql://user@host/database",
        param="registry",
    )


def _create_sqlite(url: URL) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's recipe: `begin` starts transactions, not the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the driver's errors as RegistryUnavailableError, without the statement and its values."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, _BUGS):
            raise
        raise _unavailable(error.orig) from error


def _unavailable(error: BaseException | None) -> RegistryUnavailableError:
    return RegistryUnavailableError(
        f"the registry's database failed: {type(error).__name__}: {str(error).strip()}",
        hint="check that it runs and that its URL is right",
        param="registry",
    )
