"""Keeps what the worker has loaded, so that deleting an adapter's files cannot kill the engine.

vLLM 0.32 reads an evicted adapter again from the path it was given; if the path is gone, the step fails and the
engine with it. What the worker keeps lasts from the first load until the adapter is removed: hard links to a
version in our store, which take no room in any number of workers, and copies of what lies elsewhere. Both are in
locked folders while the worker lives: what a killed one left goes with the next store, and with the next start.
"""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from lorecall.adapters.core.locked_folders import delete_unlocked, new_locked
from lorecall.adapters.intake.store import folder_for_links
from lorecall.server.engine.common.plugin import require, require_fields

FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""The files of an adapter that vLLM reads."""

COPIES = "lorecall-copies-"
"""Begins the names of the folders of copies, in the temporary directory; an earlier one was of unlocked ones."""


class AdapterSpool:
    """Links or copies of the adapters that this worker has loaded, by integer id."""

    def __init__(self) -> None:
        self._links: dict[Path, Path] = {}
        self._copies: Path | None = None
        self._kept: dict[int, Path] = {}

    def path(self, lora_int_id: int, source: str) -> str:
        """Return where this worker keeps the adapter at `source`, which is read on the first call for this id.

        Only a local directory is kept; a hub id is returned unchanged, because vLLM resolves it.
        """
        kept = self._kept.get(lora_int_id)
        if kept is not None:
            return str(kept)
        if not Path(source).is_dir():
            return source
        kept = self._linked(lora_int_id, Path(source)) or self._copied(lora_int_id, Path(source))
        self._kept[lora_int_id] = kept
        return str(kept)

    def forget(self, lora_int_id: int) -> None:
        """Delete what is kept: the adapter was removed, or is to be read again from its source."""
        kept = self._kept.pop(lora_int_id, None)
        if kept is not None:
            shutil.rmtree(kept, ignore_errors=True)

    def close(self) -> None:
        """Delete everything."""
        for folder in (*self._links.values(), *filter(None, [self._copies])):
            shutil.rmtree(folder, ignore_errors=True)

    def _linked(self, lora_int_id: int, source: Path) -> Path | None:
        """Return hard links to a stored version, whose files nobody writes to; None where there can be none."""
        target: Path | None = None
        try:
            folder = self._links.get(source.parent) or folder_for_links(source)
            if folder is None:
                return None
            self._links[source.parent] = folder
            target = folder / str(lora_int_id)
            target.mkdir()
            for name in _present(source):
                (target / name).hardlink_to(source / name)
        except (
            OSError
        ):  # a store that may not be written to, no links here, or a version that was just deleted
            if target is not None:
                shutil.rmtree(target, ignore_errors=True)
            return None
        return target

    def _copied(self, lora_int_id: int, source: Path) -> Path:
        if self._copies is None:
            self._copies, _ = new_locked(Path(tempfile.gettempdir()), COPIES, 0o700)  # the handle stays open
        fresh = Path(tempfile.mkdtemp(dir=self._copies))
        try:
            for name in _present(source):
                shutil.copyfile(source / name, fresh / name)
            return fresh.rename(self._copies / str(lora_int_id))
        except BaseException:  # a full disk must not keep what did not fit, at each try
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def _present(source: Path) -> list[str]:
    return [name for name in FILES if (source / name).is_file()]


def delete_leftovers() -> int:
    """Delete the copies of workers that were killed; return of how many."""
    return delete_unlocked(Path(tempfile.gettempdir()).glob(f"{COPIES}*"))


def apply() -> None:
    """Make the worker load adapters from its own copies."""
    from vllm.lora.request import LoRARequest
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    load = require(WorkerLoRAManager, "_load_adapter", ("self", "lora_request"))
    remove = require(LoRAModelRunnerMixin, "remove_lora", ("self", "lora_id"))
    require_fields(LoRARequest, "lora_int_id", "lora_path", "load_inplace")
    delete_leftovers()
    spool = AdapterSpool()
    atexit.register(spool.close)

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
