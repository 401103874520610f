"""A server under test, ours or stock, through the routes that both have."""

from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from lorecall.loadtest.errors import LoadtestError

TIMEOUT_S = 300


class Target:
    """One running server.

    Args:
        url: Its address.
        key: API key, "" for none.

    Raises:
        LoadtestError: It does not answer.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self.key = key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S)
        try:
            models = self._get("/v1/models")["data"]
        except LoadtestError:
            self._http.close()
            raise
        self.base, self.root = next(
            (str(model["id"]), str(model["root"])) for model in models if not model.get("parent")
        )
        self.adapters = [str(model["id"]) for model in models if model.get("parent")]
        """Adapters that it served when we came."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def scores(self) -> bool:
        """Whether it has `/v1/score`: whether it is ours."""
        try:
            return self._http.get("/v1/engine").is_success
        except httpx.HTTPError as error:
            raise LoadtestError(f"{self.url} no longer answers: {error}") from error

    def load(self, name: str, source: Path) -> None:
        """Load an adapter through vLLM's route.

        Raises:
            LoadtestError: It refuses, or is gone.
        """
        body = {"lora_name": name, "lora_path": str(source)}
        try:
            answer = self._http.post("/v1/load_lora_adapter", json=body)
        except httpx.HTTPError as error:
            raise LoadtestError(f"{self.url} no longer answers: {error}") from error
        if not answer.is_success:
            raise LoadtestError(
                f"{self.url} does not load {source}: {answer.text[:300]}",
                hint="a directory that it may read; a stock server needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
            )

    def unload(self, name: str) -> bool:
        """Unload an adapter; return whether there was one, and a server to do it."""
        try:
            return self._http.post("/v1/unload_lora_adapter", json={"lora_name": name}).is_success
        except httpx.HTTPError:
            return False

    def _get(self, path: str) -> dict[str, list[dict[str, object]]]:
        try:
            answer = self._http.get(path)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise LoadtestError(f"{self.url}{path}: {error}", hint="start the server, or name it") from error
        body: dict[str, list[dict[str, object]]] = answer.json()
        return body
