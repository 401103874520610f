"""Archives are unpacked exactly, or refused without a trace."""

import bz2
import io
import lzma
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lorecall.adapters.core.refusals import ArchiveRefusedError
from lorecall.adapters.intake.archive import unpack
from lorecall.adapters.peft_format.files import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE

from tests.adapters.malicious_archives import ARCHIVES, CONFIG, GOOD, MAX_BYTES, WEIGHTS, tar_of, zip_of

GOOD_ARCHIVES = {
    "zip": zip_of(),
    "stored zip": zip_of(method=0),
    "tar": tar_of(),
    "tar.gz": tar_of(mode="w:gz"),
    "with a directory": tar_of(files={f"acme/v1/{name}": content for name, content in GOOD.items()}),
    "with dots": tar_of(files={f"./{name}": content for name, content in GOOD.items()}),
    "with other files": zip_of(("README.md", b"text"), ("optimizer.pt", b"never read"), ("logs/a.txt", b"x")),
    "with checkpoints before it": tar_of(
        files={f"run/checkpoint-9/{name}": b"{}" for name in GOOD}
        | {f"run/{name}": content for name, content in GOOD.items()}
    ),
    "with checkpoints after it": zip_of((f"checkpoint-9/{CONFIG_FILE}", b"{}")),
    "one checkpoint": tar_of(files={f"checkpoint-9/{name}": content for name, content in GOOD.items()}),
    "with a long name": tar_of(("deep/" * 60 + "file.txt", b"x")),
}


@pytest.mark.parametrize("kind", GOOD_ARCHIVES)
def test_adapter_comes_out(kind: str, tmp_path: Path) -> None:
    """Configuration and weights come out byte for byte, and nothing else does."""
    unpack(io.BytesIO(GOOD_ARCHIVES[kind]), tmp_path, max_bytes=MAX_BYTES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == GOOD


def test_training_record_is_unpacked(tmp_path: Path) -> None:
    """The training record is one of the adapter's files."""
    unpack(io.BytesIO(zip_of((TRAINING_FILE, b"{}"))), tmp_path, max_bytes=MAX_BYTES)
    assert (tmp_path / TRAINING_FILE).read_bytes() == b"{}"


def test_names_beside_the_adapter_are_returned(tmp_path: Path) -> None:
    """What lies in its folder and is not unpacked can still be remarked."""
    archive = zip_of(("tokenizer.json", b"{}"), ("logs/events", b"x"))
    found = unpack(io.BytesIO(archive), tmp_path, max_bytes=MAX_BYTES)
    assert found == tuple(sorted([*GOOD, "tokenizer.json"]))


WRONG_KINDS = {
    "only checkpoints": (
        tar_of(files={f"run/checkpoint-{n}/{name}": b"{}" for n in (10, 9) for name in GOOD}),
        "no adapter beside its checkpoints.*checkpoint-10.*checkpoint-9",
    ),
    "xz": (lzma.compress(tar_of()), "tar.xz"),
    "bzip2": (bz2.compress(tar_of()), "tar.bz2"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7-Zip"),
    "GGUF": (b"GGUF" + bytes(999), "GGUF"),
    "merged model": (zip_of(files={"model.safetensors": b"x", "config.json": b"{}"}), "a whole model"),
    "shards": (zip_of(files={"adapter_model-00001-of-00002.safetensors": b"x"}), "in shards"),
    "MLX": (zip_of(files={"adapters.safetensors": b"x", CONFIG_FILE: b"{}"}), "of MLX"),
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_what_is_no_adapter_is_named(kind: str, tmp_path: Path) -> None:
    """The refusal says what the archive is or holds."""
    content, words = WRONG_KINDS[kind]
    with pytest.raises(ArchiveRefusedError, match=words):
        unpack(io.BytesIO(content), tmp_path, max_bytes=MAX_BYTES)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_malicious_archive_is_refused(kind: str, tmp_path: Path) -> None:
    """Each kind is refused for its own reason, in little memory, and writes nothing outside its directory."""
    reason, build = ARCHIVES[kind]
    content = build()
    target = tmp_path / "in" / "here"
    target.mkdir(parents=True)
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveRefusedError) as caught:
            unpack(io.BytesIO(content), target, max_bytes=MAX_BYTES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.reason is reason, caught.value
    assert caught.value.message.isascii()
    assert peak < 24 << 20
    assert sorted(tmp_path.rglob("*")) == sorted([target.parent, target, *target.iterdir()])
    assert {path.name for path in target.iterdir()} <= {CONFIG_FILE, WEIGHTS_FILE}
    assert sum(path.stat().st_size for path in target.iterdir()) <= MAX_BYTES


def test_limit_is_exact(tmp_path: Path) -> None:
    """As many bytes as allowed pass; one less is too few."""
    size = len(CONFIG) + len(WEIGHTS)
    for name, allowed in (("passes", size), ("fails", size - 1)):
        (tmp_path / name).mkdir()
        if name == "passes":
            unpack(io.BytesIO(zip_of()), tmp_path / name, max_bytes=allowed)
        else:
            with pytest.raises(ArchiveRefusedError, match="unpacks to more"):
                unpack(io.BytesIO(zip_of()), tmp_path / name, max_bytes=allowed)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever bytes of an archive are changed, unpacking ends in files of an adapter or in a refusal."""
    target = tmp_path_factory.mktemp("unpacked")
    content = bytearray(GOOD_ARCHIVES[data.draw(st.sampled_from(sorted(GOOD_ARCHIVES)))])
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        unpack(io.BytesIO(content), target, max_bytes=MAX_BYTES)
    except ArchiveRefusedError:
        return
    assert {path.name for path in target.iterdir()} <= {CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE}
