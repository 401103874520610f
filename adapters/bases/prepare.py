"""Prepare a base model: fetch it, quantise it once, save it as a model directory with a manifest."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from lorecall.adapters.bases import quantize
from lorecall.adapters.bases.locate import BaseFiles, find_base
from lorecall.adapters.bases.multimodal import text_model
from lorecall.adapters.bases.names import model_name
from lorecall.adapters.bases.scheme_choice import Choice, choose_scheme, detect_capabilities
from lorecall.adapters.core.atomic_directory import digest_files, new_directory
from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import BaseModelError

if TYPE_CHECKING:
    from torch import dtype as torch_dtype

BASE_MANIFEST = "lorecall-base.json"
SCHEMA_VERSION = 1
QUANTIZE = {"none": quantize.NONE, "int8": quantize.INT8, "int4": quantize.INT4, "fp8": quantize.FP8}
_DIGESTED = ("config.json", "*.safetensors", "tokenizer*", "*.jinja")
_TOOLS = ("lorecall", "torch", "transformers", "compressed-tensors")


@dataclass(frozen=True, slots=True)
class BaseManifest:
    """What `lorecall-base.json` says of a prepared base.

    Attributes:
        name: The model name that it is served under.
        source: Where it came from.
        source_digest: sha256 (hex) over the source's files.
        scheme: A member of `quantize.SCHEMES`, or the method of a source that was quantised already.
        reason: Why this scheme was chosen.
        dtype: The dtype of the unquantised parts and the activations (vLLM's `--dtype`).
        digest: sha256 (hex) over config, weights and tokenizer of the directory.
        created_with: Versions of the tools that made it.
        verified: What comparing the engine with transformers found: tokens compared, mean and largest
            |difference of log p| in nats; None where it was not done.
    """

    name: str
    source: str
    source_digest: str
    scheme: str
    reason: str
    dtype: str
    digest: str
    created_with: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    verified: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The result of `prepare_base`: the manifest, and whether an earlier directory was reused."""

    manifest: BaseManifest
    reused: bool


def read_base_manifest(path: Path) -> BaseManifest:
    """Read the manifest of a prepared base.

    Raises:
        BaseModelError: `path` is not a directory that `lorecall base prepare` made.
    """
    if not path.is_dir():
        raise BaseModelError(
            f"no base model at {path}", hint="make one with `lorecall base prepare`", param="base"
        )
    file = path / BASE_MANIFEST
    if not file.is_file():
        raise BaseModelError(
            f"{path} is no prepared base: it has no {BASE_MANIFEST}",
            hint=f"lorecall base prepare --from {path} --out DIR",
            param="base",
        )
    try:
        data = json.loads(file.read_text())
        if data["schema_version"] != SCHEMA_VERSION:
            raise BaseModelError(f"{file} has schema version {data['schema_version']}, not {SCHEMA_VERSION}")
        return BaseManifest(**data)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"{file} is damaged: {error}", hint="prepare the base again with --force"
        ) from error


def write_base_manifest(
    path: Path, *, source: str, source_digest: str, scheme: str, reason: str
) -> BaseManifest:
    """Write the manifest of the finished model directory `path` and return it."""
    config = json.loads((path / "config.json").read_text())
    manifest = BaseManifest(
        name=model_name(source),
        source=source,
        source_digest=source_digest,
        scheme=scheme,
        reason=reason,
        dtype=config.get("dtype") or config.get("torch_dtype") or "float32",  # the second is the old name
        digest=directory_digest(path),
        created_with={tool: metadata.version(tool) for tool in _TOOLS},
    )
    _write(path, manifest)
    return manifest


def _write(path: Path, manifest: BaseManifest) -> None:
    write_whole(path / BASE_MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")


def directory_digest(path: Path) -> str:
    """Return the sha256 (hex) over config, weights and tokenizer of a model directory."""
    return digest_files(path, {file for pattern in _DIGESTED for file in path.glob(pattern)})


def prepare_base(
    out: Path,
    source: str | None = None,
    scheme: str = "auto",
    *,
    force: bool = False,
    check: Callable[[Path, BaseManifest], dict[str, float] | None] = lambda _path, _manifest: None,
    on_step: Callable[[str, int, int], None] = lambda _step, _done, _total: None,
) -> Prepared:
    """Write `source`, quantised by `scheme`, to `out` as a model directory that can be served.

    An `out` that already holds the same source in the same scheme, undamaged, is reused. Otherwise the
    directory is built next to `out` and renamed, so `out` is complete or absent.

    Args:
        out: The directory to make.
        source: As in `find_base`; None is the default base.
        scheme: "auto", "int8", "int4", "fp8" or "none".
        force: Build again even if an earlier result could be reused.
        check: Called with the finished directory before it gets its name, or with a reused one that was not
            checked; what it returns is the manifest's `verified`. What it raises leaves `out` as it was.
        on_step: Called with (name of the step, done, total) for a progress display.

    Raises:
        BaseModelError: A bad source, an unknown scheme, or an `out` that `prepare_base` did not make.
    """
    if scheme != "auto" and scheme not in QUANTIZE:
        raise BaseModelError(
            f"unknown quantisation {scheme!r}", hint=f"one of auto, {', '.join(QUANTIZE)}", param="quantize"
        )
    existing = _existing(out)
    found = find_base(source)
    choice = _choose(found, scheme)
    source_digest = found.digest()
    if existing is not None and not force:
        same = (existing.source_digest, existing.scheme) == (source_digest, choice.scheme)
        if same and existing.digest == directory_digest(out):
            if existing.verified is None and (verified := check(out, existing)) is not None:
                existing = replace(existing, verified=verified)
                _write(out, existing)
            return Prepared(existing, reused=True)
    with new_directory(out) as work:
        _build(work, found, choice, on_step)
        manifest = write_base_manifest(
            work, source=found.label, source_digest=source_digest, scheme=choice.scheme, reason=choice.reason
        )
        on_step("verifying", 0, 0)
        if (verified := check(work, manifest)) is not None:
            manifest = replace(manifest, verified=verified)
            _write(work, manifest)
    return Prepared(manifest, reused=False)


def _existing(out: Path) -> BaseManifest | None:
    """Return the manifest of the base at `out`; None if there is none, or its manifest is damaged."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / BASE_MANIFEST).is_file():
        raise BaseModelError(
            f"{out} exists and was not made by `lorecall base prepare`",
            hint="name another directory",
            param="out",
        )
    try:
        return read_base_manifest(out)
    except BaseModelError:
        return None


def _choose(source: BaseFiles, scheme: str) -> Choice:
    """Return the scheme for `source`: its present one, the requested one, or the best one for this machine."""
    present = source.quantization()
    if present is not None:
        if scheme != "auto":
            raise BaseModelError(
                f"{source.label} is quantised already ({present})",
                hint="use --quantize auto to keep it",
                param="quantize",
            )
        return Choice(present, "the source is quantised already", "auto")
    weights = sum(file.stat().st_size for file in source.files if file.suffix in (".safetensors", ".gguf"))
    choice = choose_scheme(detect_capabilities(), QUANTIZE.get(scheme), weights)
    if source.has_delta_rule() and choice.dtype != "bfloat16":
        reason = f"{choice.reason}; its recurrent layers run in bfloat16 alone on a CPU"
        return replace(choice, dtype="bfloat16", reason=reason)
    return choice


def _build(work: Path, source: BaseFiles, choice: Choice, on_step: Callable[[str, int, int], None]) -> None:
    """Write model, tokenizer and generation config of `source` to `work`."""
    if choice.dtype == "auto":
        for file in source.files:
            on_step("copying", 0, 0)
            copyfile(file, work / file.name)
        return
    on_step("reading", 0, 0)
    model, tokenizer = load_base(source, choice.dtype)
    on_step("quantising", 0, 0)
    if choice.scheme != quantize.NONE:
        head = model.get_output_embeddings().weight  # bfloat16 numbers: half of the bytes for a CPU to read
        head.data = head.data.bfloat16().to(head.dtype)
    quantize.save_model(model, choice.scheme, work, lambda done, total: on_step("quantising", done, total))
    tokenizer.save_pretrained(work)


def load_base(source: BaseFiles, dtype: "torch_dtype | str") -> tuple[Any, Any]:
    """Load model and tokenizer of a source that is not quantised, with weights of `dtype`.

    Of a multimodal model only the text model is loaded; see `text_model`.

    Raises:
        BaseModelError: transformers cannot read it.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    kwargs: dict[str, Any] = {} if source.gguf is None else {"gguf_file": source.gguf}
    try:
        with nullcontext() if source.gguf is None else _read_once():
            tokenizer = AutoTokenizer.from_pretrained(source.directory, **kwargs)
            loader, more = text_model(source)
            model, info = loader.from_pretrained(
                source.directory, dtype=dtype, output_loading_info=True, **kwargs, **more
            )
    except (ValueError, OSError, ImportError, KeyError, SafetensorError) as error:
        raise BaseModelError(f"transformers cannot read {source.label}: {error}", param="from") from error
    if "key_mapping" in more:
        del model._weight_conversions  # noqa: SLF001  # or it would be saved under the names of the multimodal checkpoint
    missing = sorted(info["missing_keys"])
    if missing:
        raise BaseModelError(f"{source.label} lacks weights: {', '.join(missing[:5])}", param="from")
    if source.gguf is not None:  # transformers still records a quantisation, but the weights are plain now
        del model.config.quantization_config
        model.hf_quantizer = None
    return model, tokenizer


@contextmanager
def _read_once() -> Iterator[None]:
    """Keep a GGUF file's header, and the names of its tensors, while this is open.

    transformers 5.19 reads the header three times, in which the reader makes an array of every string of the
    vocabulary, and makes the map of names some four hundred times: half of the time of preparing a small base.
    """
    import gguf  # noqa: PLC0415

    upstream = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(cache, upstream)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = upstream
