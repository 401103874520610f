"""A real PostgreSQL server: in a temporary directory, by an unprivileged user, on a free port."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg


class MissingPostgresError(Exception):
    """PostgreSQL's programs are not installed."""


@dataclass(frozen=True)
class Postgres:
    """A running server.

    Attributes:
        programs: The directory of `initdb` and `pg_ctl`.
        directory: Its data and its log.
        port: Its port on the loopback interface.
    """

    programs: Path
    directory: Path
    port: int

    def new_database(self) -> str:
        """Return the URL of an empty database: a schema of its own, which takes a fraction of the disk."""
        schema = f"test_{uuid.uuid4().hex}"
        url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
        return f"{url}?options=-csearch_path%3D{schema}"

    def restart(self) -> None:
        """Stop the server as a crash would, and start it again."""
        self.stop()
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.directory}"
        )
        self._run("pg_ctl", "-w", "-l", str(self.directory / "log"), "-o", options + " -c fsync=off", "start")

    def stop(self) -> None:
        """Stop the server at once."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def initialise(self) -> None:
        """Make an empty cluster."""
        self._run("initdb", "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")

    def _run(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root.
        user = "nobody" if os.getuid() == 0 else None
        done = subprocess.run(
            [str(self.programs / program), "-D", str(self.directory / "data"), *arguments],
            user=user,
            extra_groups=[] if user else None,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE
            if program == "initdb"
            else subprocess.DEVNULL,  # a server keeps a pipe open
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout or (self.directory / "log").read_text()


def find_programs() -> Path:
    """The directory of PostgreSQL's server programs.

    Raises:
        MissingPostgresError: There is none; Debian's package `postgresql` has them.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise MissingPostgresError("initdb is not installed: see requirements/apt.txt")
    return found[-1].parent if found else Path(str(on_path)).parent


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server for the time of the block.

    Raises:
        MissingPostgresError: PostgreSQL is not installed.
    """
    programs = find_programs()
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has 107 bytes
    try:
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        server = Postgres(programs, directory, _free_port())
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
