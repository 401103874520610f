"""The files of a PEFT adapter directory, and how they are opened and read safely."""

import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from lorecall.adapters.core.beneath import Folder, LeavesRootError
from lorecall.adapters.core.refusals import FileRefusedError, Reason, safe_repr

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TRAINING_FILE = "lorecall-training.json"
REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
ADAPTER_FILES = (*REQUIRED_FILES, TRAINING_FILE)
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
MAX_JSON_BYTES = 1 << 20
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TRUSTED = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a named pipe must not wait for a writer


def open_plain(directory: Path | Folder, name: str, *, follow_links: bool = False) -> BufferedReader:
    """Open a regular file of a directory for reading.

    Args:
        directory: The directory, or a folder below a root.
        name: The file's name in it, without a separator.
        follow_links: Whether the file may be a link out of the directory, or of the folder's root.

    Raises:
        FileRefusedError: The file is missing, unreadable, not a regular file, or a link out.
    """
    folder = Folder.of(directory)
    try:
        handle = os.open(folder.path / name, _TRUSTED) if follow_links else folder.open(name)
    except LeavesRootError as error:
        raise FileRefusedError(
            Reason.SYMLINK,
            f"{name} is a link out of the adapter's directory",
            hint="copy the file itself into the directory",
            param=name,
        ) from error
    except FileNotFoundError as error:
        raise _missing(folder, name) from error
    except OSError as error:
        raise FileRefusedError(
            Reason.UNREADABLE, f"{name} cannot be read: {error.strerror}", param=name
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileRefusedError(Reason.NOT_A_REGULAR_FILE, f"{name} is not a regular file", param=name)
    return os.fdopen(handle, "rb")


def read_json_bytes(directory: Path | Folder, name: str, *, follow_links: bool = False) -> bytes:
    """Read one of the short JSON files of a directory, opened as by `open_plain`.

    Raises:
        FileRefusedError: It cannot be opened, or is larger than `MAX_JSON_BYTES`.
    """
    with open_plain(directory, name, follow_links=follow_links) as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise FileRefusedError(
            Reason.TOO_LARGE,
            f"{name} is larger than {MAX_JSON_BYTES} bytes",
            hint="it is a short JSON file",
            param=name,
        )
    return raw


def _missing(folder: Folder, name: str) -> FileRefusedError:
    names: list[str] = []
    with suppress(OSError):  # the whole folder is missing, or lies outside by now
        names = folder.names()
    return missing_file(names, name)


def missing_file(names: Collection[str], name: str) -> FileRefusedError:
    """Return the refusal of a folder that lacks a file, with what the folder holds instead.

    Args:
        names: The names in the folder.
        name: The file that it lacks: the configuration or the weights.
    """
    problem = instead_of_adapter(names, name) or (
        Reason.MISSING_FILE,
        f"the adapter has no {name}",
        "an adapter is a PEFT directory: " + " and ".join(REQUIRED_FILES),
        name,
    )
    reason, message, hint, param = problem
    return FileRefusedError(reason, message, hint=hint, param=param)


def instead_of_adapter(
    names: Collection[str], name: str = WEIGHTS_FILE
) -> tuple[Reason, str, str, str] | None:
    """Return reason, message, hint and file for what people bring instead of an adapter; None for nothing known.

    Args:
        names: The names of the files and folders.
        name: The file that is missing.
    """
    convert = "make a plain LoRA of it: lorecall adapters convert DIR --out DIR"
    pickles = [one for one in names if one.startswith("adapter_model") and one.endswith(PICKLE_SUFFIXES)]
    if name == WEIGHTS_FILE and pickles:
        return (
            Reason.PICKLE,
            f"the weights are a Python pickle ({pickles[0]}), which is never opened by a server: it can run code",
            f"{convert}; or save them as {WEIGHTS_FILE} (PEFT: save_pretrained(..., safe_serialization=True))",
            pickles[0],
        )
    kinds = (
        (r"adapter_model-\d+-of-\d+\.safetensors", "the weights are in shards ({})", convert),
        (r"adapters\.safetensors", "it is an adapter of MLX ({})", convert),
        (r".*\.gguf", "it is a GGUF file ({}), not PEFT's", "give the PEFT directory that it was made from"),
        (
            r"(?:model|pytorch_model)[^/]*\.(?:safetensors|bin)",
            "it is a whole model ({}), not an adapter",
            "serve it as a base: lorecall base prepare --from DIR --out DIR; or give the adapter before merging",
        ),
    )
    for pattern, message, hint in kinds:
        found = sorted(one for one in names if re.fullmatch(pattern, one))
        if found:
            return Reason.MISSING_FILE, message.format(safe_repr(found[0])), hint, name
    checkpoints = sorted(
        (one for one in names if re.fullmatch(r"checkpoint-\d{1,12}", one)), key=lambda one: int(one[11:])
    )
    if checkpoints:
        listed = ", ".join(checkpoints[-8:])
        last = f"name one of them, such as .../{checkpoints[-1]}"
        return Reason.MISSING_FILE, f"the folder has no adapter beside its checkpoints: {listed}", last, name
    return None
