"""A server under test, ours or stock vLLM, through the routes that both have."""

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
            models = self._models()
        except LoadtestError:
            self._http.close()
            raise
        self.base, self.root = next(
            (str(model["id"]), str(model["root"])) for model in models if not model.get("parent")
        )
        self.adapters = [str(model["id"]) for model in models if model.get("parent")]
        """Adapters that it served at the start."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def tokenizer(self) -> str:
        """Return the folder or hub id of the base's tokenizer, as the server names it.

        Raises:
            LoadtestError: It does not: a lorecall server shows no paths of its own.
        """
        if self.root == self.base and "/" not in self.root:
            raise LoadtestError(
                f"{self.url} does not say where its base's tokenizer is",
                hint="name its folder with --tokenizer",
            )
        return self.root

    def scores(self) -> bool:
        """Whether it is a lorecall server, which has `/v1/score`."""
        return self._send("GET", "/v1/engine").is_success

    def load(self, name: str, source: Path) -> None:
        """Load an adapter through vLLM's route.

        Raises:
            LoadtestError: It refuses, or does not answer.
        """
        body = {"lora_name": name, "lora_path": str(source)}
        answer = self._send("POST", "/v1/load_lora_adapter", body)
        if not answer.is_success:
            raise LoadtestError(
                f"{self.url} does not load {source}: {answer.text[:300]}",
                hint="a directory that it may read; a stock server needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
            )

    def unload(self, name: str) -> bool:
        """Unload an adapter; return whether the server had it and answered."""
        try:
            return self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name}).is_success
        except LoadtestError:
            return False

    def _models(self) -> list[dict[str, object]]:
        answer = self._send("GET", "/v1/models")
        if not answer.is_success:
            raise LoadtestError(
                f"{self.url}/v1/models answered HTTP {answer.status_code}", hint="check server and API key"
            )
        models: list[dict[str, object]] = answer.json()["data"]
        return models

    def _send(self, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise LoadtestError(f"{self.url}{path}: {error}", hint="start the server, or name it") from error
