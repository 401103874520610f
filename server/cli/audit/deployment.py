"""Serves adapters on a running server while an audit needs them."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lorecall.adapters.core.errors import ScorerError
from lorecall.audit.scorers.http_client import HttpClient


@dataclass(frozen=True, slots=True)
class ServerDeployment:
    """Serves folders through `POST /v1/adapters`, by path, so the server must run on this machine.

    Attributes:
        client: The server's client.
    """

    client: HttpClient

    def deploy(self, name: str, folder: Path) -> None:
        """Serve a folder under a name.

        Raises:
            RequestRefusedError: The server refuses it.
            ScorerError: The server holds it for an audit of its own.
        """
        added = self.client.call("POST", "/v1/adapters", {"name": name, "source": str(folder.resolve())})
        if added["state"] != "live":
            self.withdraw(name)
            raise ScorerError(
                f"the server does not serve {folder.name!r} but keeps it {added['state']}",
                hint="use a server without --require-audit: this audit asks through the served adapter",
            )

    def withdraw(self, name: str) -> None:
        """Take the name out of service."""
        self.client.call("DELETE", f"/v1/adapters/{quote(name, safe='')}")
