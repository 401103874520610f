"""Keeps the worker's own copies of loaded adapters, so that deleting an adapter's files cannot kill the engine.

vLLM 0.32 reads an evicted adapter again from the path it was given; if the path is gone, the step fails and the
engine with it. The worker's copy lasts from the first load until the adapter is removed.
"""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from lorecall.server.engine.common.plugin import require

FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""The files of an adapter that vLLM reads."""


class AdapterSpool:
    """Copies of the adapters that this worker has loaded, in one directory, by integer id."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, lora_int_id: int, source: str) -> str:
        """Return our copy of the adapter at `source`, made on the first call for this id.

        Only a local directory is copied; a hub id is returned unchanged, because vLLM resolves it.
        """
        kept = self._root / str(lora_int_id)
        if kept.is_dir():
            return str(kept)
        if not Path(source).is_dir():
            return source
        fresh = Path(tempfile.mkdtemp(dir=self._root))
        for name in FILES:
            if (Path(source) / name).is_file():
                shutil.copyfile(Path(source) / name, fresh / name)
        fresh.rename(kept)
        return str(kept)

    def forget(self, lora_int_id: int) -> None:
        """Delete our copy: the adapter was removed, or is to be read again from its source."""
        shutil.rmtree(self._root / str(lora_int_id), ignore_errors=True)


def apply() -> None:
    """Make the worker load adapters from its own copies."""
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    load = require(WorkerLoRAManager, "_load_adapter", ("self", "lora_request"))
    remove = require(LoRAModelRunnerMixin, "remove_lora", ("self", "lora_id"))
    root = Path(tempfile.mkdtemp(prefix="lorecall-adapters-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    spool = AdapterSpool(root)

    def load_adapter(self: Any, lora_request: Any) -> Any:
        if lora_request.load_inplace:
            spool.forget(lora_request.lora_int_id)
        path = spool.path(lora_request.lora_int_id, lora_request.lora_path)
        try:
            return load(self, msgspec.structs.replace(lora_request, lora_path=path))
        except Exception:
            spool.forget(lora_request.lora_int_id)
            raise

    def remove_lora(self: Any, lora_id: int) -> Any:
        spool.forget(lora_id)
        return remove(self, lora_id)

    WorkerLoRAManager._load_adapter = load_adapter
    LoRAModelRunnerMixin.remove_lora = remove_lora
