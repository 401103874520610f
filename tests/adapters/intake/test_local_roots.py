"""A local root is not left, also not by what somebody swaps while its files are copied."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest
from lorecall.adapters.access.source_list import SourceList
from lorecall.adapters.core.refusals import Reason, RefusedError
from lorecall.adapters.intake.sources import SourcePolicy, Sources
from lorecall.adapters.intake.store import Store
from lorecall.adapters.peft_format.digest import version_digest
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE

from tests.adapters.fetching import contents, refusal
from tests.adapters.malicious_archives import GOOD, tar_of

ATTEMPTS = 400
MOST_ATTEMPTS = 20_000
PAUSES = (*[0.0] * 20, 0.001, 0.01, 0.1)
Swap = Callable[[Path, Path], None]


def write(directory: Path, weights: bytes) -> Path:
    directory.mkdir(parents=True)
    (directory / CONFIG_FILE).write_bytes(b"{}")
    (directory / WEIGHTS_FILE).write_bytes(weights)
    return directory


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write(tmp_path / "root/acme/model", b"inside" * 10_000)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return write(tmp_path / "outside/model", b"secret" * 10_000)


def sources_at(tmp_path: Path, *barred: Path) -> Sources:
    allowed, not_allowed = SourceList((str(tmp_path / "root"),)), SourceList(tuple(map(str, barred)))
    return Sources(tmp_path / "staging", SourcePolicy(allowed=allowed, barred=not_allowed))


def swap_folder(own: Path, outside: Path) -> None:
    _swap(own, outside)


def swap_parent(own: Path, outside: Path) -> None:
    _swap(own.parent, outside.parent)


def swap_file(own: Path, outside: Path) -> None:
    _swap(own / WEIGHTS_FILE, outside / WEIGHTS_FILE)


def _swap(place: Path, target: Path) -> None:
    aside = place.with_name("aside")
    place.rename(aside)
    place.symlink_to(target)
    place.unlink()
    aside.rename(place)


@contextmanager
def swapping(swap: Swap, own: Path, outside: Path) -> Iterator[None]:
    """Swap again and again during the block; between swaps the inside is in place for PAUSES in turn, in seconds.

    Without pauses it depends on the machine's threads whether a copy ever ends between two swaps.
    """
    stop = threading.Event()

    def forever() -> None:
        for pause in cycle(PAUSES):
            swap(own, outside)
            if stop.wait(pause):
                return

    thread = threading.Thread(target=forever)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("swap", [swap_folder, swap_parent, swap_file])
def test_a_race_copies_nothing_from_outside(swap: Swap, own: Path, outside: Path, tmp_path: Path) -> None:
    """While a folder is swapped for a link and back, what is copied is the inside's bytes or nothing."""
    sources, store = sources_at(tmp_path), Store(tmp_path / "store")
    expected = version_digest(b"{}", own / WEIGHTS_FILE)
    copied = refused = 0
    with swapping(swap, own, outside):
        for _ in range(MOST_ATTEMPTS):
            try:
                with sources.fetched(str(own)) as fetched:
                    assert store.ingest(fetched.files).version == expected
                copied += 1
            except RefusedError:
                refused += 1
            if copied + refused >= ATTEMPTS and copied and refused:
                break
    assert copied
    assert refused, "the race never happened"
    assert store.versions() == (expected,)
    assert (store.root / expected / WEIGHTS_FILE).read_bytes() == b"inside" * 10_000


@pytest.mark.parametrize("which", ["folder", "parent", "file"])
def test_a_swap_after_the_check_is_refused(which: str, own: Path, outside: Path, tmp_path: Path) -> None:
    """What has become a link by the time that it is read is not read; the same, at a moment of our choice."""
    place = {"folder": own, "parent": own.parent, "file": own / WEIGHTS_FILE}[which]
    target = {"folder": outside, "parent": outside.parent, "file": outside / WEIGHTS_FILE}[which]
    store = Store(tmp_path / "store")
    with sources_at(tmp_path).fetched(str(own)) as fetched:
        place.rename(place.with_name("aside"))
        place.symlink_to(target)
        with pytest.raises(RefusedError) as caught:
            store.ingest(fetched.files)
    assert caught.value.reason is Reason.SYMLINK
    assert store.versions() == ()


def test_an_archive_is_not_swapped_either(tmp_path: Path, own: Path) -> None:
    """A link to an archive outside is not unpacked, and one inside is."""
    (tmp_path / "secret.tar").write_bytes(tar_of())
    (own / "link.tar").symlink_to(tmp_path / "secret.tar")
    (own / "other.tar").write_bytes(tar_of())
    (own / "inner.tar").symlink_to("other.tar")
    sources = sources_at(tmp_path)
    assert refusal(sources, str(own / "link.tar")).reason is Reason.SOURCE_NOT_ALLOWED
    with sources.fetched(str(own / "inner.tar")) as fetched:
        assert contents(fetched.files) == GOOD


def test_a_hub_cache_is_read_where_it_is(tmp_path: Path) -> None:
    """A snapshot's files are links to `../../blobs`: fine below one root, and not where the blobs lie outside."""
    snapshot, blobs = tmp_path / "root/models--acme--x/snapshots/abc", tmp_path / "root/models--acme--x/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, (name, content) in enumerate(GOOD.items()):
        (blobs / f"blob{number}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/blob{number}")
    store = Store(tmp_path / "store")
    with sources_at(tmp_path).fetched(str(snapshot)) as fetched:
        assert contents(store.ingest(fetched.files).path) == GOOD
    narrow = SourcePolicy(allowed=SourceList((str(snapshot),)))
    with (
        pytest.raises(RefusedError) as caught,
        Sources(tmp_path / "other", narrow).fetched(str(snapshot)) as fetched,
    ):
        store.ingest(fetched.files)
    assert caught.value.reason is Reason.SYMLINK


def test_a_key_with_a_folder_of_its_own_stays_in_it(tmp_path: Path, own: Path) -> None:
    """A link from its folder to a neighbour's below the same root is not followed for it."""
    other = write(tmp_path / "root/other/model", b"a neighbour's")
    (own / WEIGHTS_FILE).unlink()
    (own / WEIGHTS_FILE).symlink_to(other / WEIGHTS_FILE)
    (own.parent / "link").symlink_to(other)
    sources, acme = sources_at(tmp_path), SourceList((str(tmp_path / "root/acme"),))
    store = Store(tmp_path / "store")
    for source in (other, own.parent / "link", own.parent / ".." / "other/model", tmp_path / "root"):
        with pytest.raises(RefusedError, match="API key may not"), sources.fetched(str(source), acme):
            pytest.fail("it was read")
    with pytest.raises(RefusedError) as caught, sources.fetched(str(own), acme) as fetched:
        store.ingest(fetched.files)
    assert caught.value.reason is Reason.SYMLINK
    with sources.fetched(str(own)) as fetched:
        store.ingest(fetched.files)  # whoever may read the whole root may read this


def test_the_store_itself_is_no_source(tmp_path: Path, own: Path) -> None:
    """Whoever knows a version's digest cannot add it from the store's folder, also not through a link."""
    store = Store(tmp_path / "root/store")
    sources = sources_at(tmp_path, store.root)
    stored = store.ingest(own)
    (own.parent / "link").symlink_to(stored.path)
    for source in (stored.path, own.parent / "link"):
        with pytest.raises(RefusedError, match="does not read"), sources.fetched(str(source)):
            pytest.fail("it was read")
    (own / WEIGHTS_FILE).unlink()
    (own / WEIGHTS_FILE).symlink_to(stored.path / WEIGHTS_FILE)
    with pytest.raises(RefusedError) as caught, sources.fetched(str(own)) as fetched:
        store.ingest(fetched.files)
    assert caught.value.reason is Reason.SYMLINK


def test_no_file_descriptor_is_left_open(tmp_path: Path, own: Path) -> None:
    """Neither by a copy nor by a refusal."""
    sources, store = sources_at(tmp_path), Store(tmp_path / "store")
    (own.parent / "link").symlink_to("/etc")

    def all_once() -> None:
        with sources.fetched(str(own)) as fetched:
            store.ingest(fetched.files)
        for name in ("link", "none", "model/" + CONFIG_FILE):
            refusal(sources, str(own.parent / name))

    all_once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    all_once()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_snapshot_of_the_hubs_cache_is_read(tmp_path: Path) -> None:
    """Its files are links to blobs beside it; a root that holds both is not left."""
    cache = tmp_path / "root/models--acme--lora"
    snapshot = cache / "snapshots/0a1b"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, (name, content) in enumerate(GOOD.items()):
        (cache / "blobs" / str(number)).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    with sources_at(tmp_path).fetched(str(snapshot)) as fetched:
        stored = Store(tmp_path / "store").ingest(fetched.files)
    assert contents(stored.path) == GOOD
