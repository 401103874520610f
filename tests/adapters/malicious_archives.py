"""A generated corpus of archives that must never be unpacked, each with the reason it must be refused for."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping

from lorecall.adapters.core.refusals import Reason
from lorecall.adapters.intake.archive import MAX_MEMBERS
from lorecall.adapters.peft_format.files import CONFIG_FILE, WEIGHTS_FILE

MAX_BYTES = 1 << 20
CONFIG, WEIGHTS = b'{"r": 4}', b"weights" * 100
GOOD = {CONFIG_FILE: CONFIG, WEIGHTS_FILE: WEIGHTS}
Builder = Callable[[], bytes]


def tar_of(
    *extra: tarfile.TarInfo | tuple[str, bytes], files: Mapping[str, bytes] = GOOD, mode: str = "w"
) -> bytes:
    """A tar of files, with more members after them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]  # a mode of writing
        for name, content in files.items():
            _add(archive, name, content)
        for member in extra:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                _add(archive, *member)
    return buffer.getvalue()


def zip_of(
    *extra: tuple[str | zipfile.ZipInfo, bytes],
    files: Mapping[str, bytes] = GOOD,
    method: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """A zip of files, with more members after them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in (*files.items(), *extra):
            archive.writestr(name, content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _special(kind: bytes, name: str = WEIGHTS_FILE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def _zip_link() -> bytes:
    link = zipfile.ZipInfo(WEIGHTS_FILE)
    link.create_system, link.external_attr = 3, 0o120777 << 16
    return zip_of((link, b"/etc/passwd"), files={CONFIG_FILE: CONFIG})


def _zip_patched(offset: int, value: bytes, signature: bytes = b"PK\x01\x02") -> bytes:
    """A zip with bytes changed in its first directory entry, or in another record."""
    raw = bytearray(zip_of())
    start = raw.index(signature) + offset
    raw[start : start + len(value)] = value
    return bytes(raw)


def _huge_pax_header() -> bytes:
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 1 << 33
    return member.tobuf() + tar_of()


def _many_pax_headers() -> bytes:
    """Headers as large as allowed, more than allowed, of digits that a search in them has to try one by one."""
    body = b"0" * 8000
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, len(body)
    return (member.tobuf() + body.ljust(8192, b"\0")) * 500 + tar_of()


def _sparse() -> bytes:
    member = tarfile.TarInfo(WEIGHTS_FILE)
    member.type = tarfile.GNUTYPE_SPARSE
    return tar_of(member, files={CONFIG_FILE: CONFIG})


def _sized(size: int, kind: bytes = tarfile.REGTYPE, name: str = WEIGHTS_FILE, padding: int = 0) -> bytes:
    """A gzipped tar whose second member states a size in base-256, and zeros after it."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    start = tar_of(files={CONFIG_FILE: CONFIG})[:1024]
    return gzip.compress(start + member.tobuf(tarfile.GNU_FORMAT) + bytes(padding))


def _pax_sized(size: int, padding: int) -> bytes:
    member = tarfile.TarInfo(WEIGHTS_FILE)
    member.pax_headers = {"size": str(size)}
    start = tar_of(files={CONFIG_FILE: CONFIG})[:1024]
    return gzip.compress(start + member.tobuf(tarfile.PAX_FORMAT) + bytes(padding))


def _endless_sparse_map() -> bytes:
    """A sparse file whose map is as long as the archive: tarfile reads it whole before it says what it is."""
    member = tarfile.TarInfo(WEIGHTS_FILE)
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    return member.tobuf(tarfile.PAX_FORMAT) + b"1000000000\n".ljust(512, b"0") + b"0\n" * (8 << 20)


def _endless_old_sparse_map() -> bytes:
    """The same in GNU's older form: blocks of 21 pieces, each of which says that another follows."""
    member = tarfile.TarInfo(WEIGHTS_FILE)
    member.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    block = (b"00000000001\0" * 42).ljust(504, b"\0") + b"\1" * 8
    return bytes(head) + block * (16 << 11)


def _zip_bomb() -> bytes:
    return zip_of((WEIGHTS_FILE, bytes(64 << 20)), files={CONFIG_FILE: CONFIG})


def _lying_zip() -> bytes:
    """A bomb that says it unpacks to one byte."""
    raw = bytearray(_zip_bomb())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = raw.rindex(signature) + offset
        raw[start : start + 4] = struct.pack("<I", 1)
    return bytes(raw)


ARCHIVES: Mapping[str, tuple[Reason, Builder]] = {
    "nothing": (Reason.BAD_ARCHIVE, lambda: b""),
    "noise": (Reason.BAD_ARCHIVE, lambda: bytes(range(1, 256)) * 9),
    "html page": (Reason.BAD_ARCHIVE, lambda: b"<!doctype html><title>Not found</title>" * 20),
    "bare pickle": (Reason.BAD_ARCHIVE, lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR." * 30),
    "cut zip": (Reason.BAD_ARCHIVE, lambda: zip_of()[:-30]),
    "cut tar": (Reason.BAD_ARCHIVE, lambda: tar_of()[:1600]),
    "cut tar.gz": (Reason.BAD_ARCHIVE, lambda: tar_of(mode="w:gz")[:-20]),
    "gzip of noise": (Reason.BAD_ARCHIVE, lambda: gzip.compress(b"noise" * 500)),
    "damaged deflate": (
        Reason.BAD_ARCHIVE,
        lambda: zip_of().replace(b"weights"[:1], b"\xff", 1)[:60] + b"\xff" * 99,
    ),
    "wrong checksum": (Reason.BAD_ARCHIVE, lambda: _zip_patched(16, b"\0\0\0\0")),
    "names that disagree": (Reason.BAD_ARCHIVE, lambda: _zip_patched(30, b"other", b"PK\x03\x04")),
    "encrypted": (Reason.BAD_ARCHIVE, lambda: _zip_patched(8, b"\1\0")),
    "lzma inside": (Reason.BAD_ARCHIVE, lambda: zip_of(method=zipfile.ZIP_LZMA)),
    "bzip2 inside": (Reason.BAD_ARCHIVE, lambda: zip_of(method=zipfile.ZIP_BZIP2)),
    "many members": (Reason.BAD_ARCHIVE, lambda: tar_of(*((f"f{n}", b"") for n in range(MAX_MEMBERS + 9)))),
    "many directories": (
        Reason.BAD_ARCHIVE,
        lambda: tar_of(*(_special(tarfile.DIRTYPE, f"d{n}") for n in range(MAX_MEMBERS + 9))),
    ),
    "huge zip directory": (Reason.BAD_ARCHIVE, lambda: zip_of(*((f"{n:09}" * 9, b"") for n in range(9000)))),
    "header of 8 GB": (Reason.BAD_ARCHIVE, _huge_pax_header),
    "many slow headers": (Reason.BAD_ARCHIVE, _many_pax_headers),
    "size of minus one": (Reason.BAD_ARCHIVE, lambda: _sized(-1, padding=1 << 19)),
    "size of minus one in a pax header": (Reason.BAD_ARCHIVE, lambda: _pax_sized(-1, 1 << 19)),
    "size that leads back": (Reason.BAD_ARCHIVE, lambda: _sized(-1024)),
    "negative size of another file": (Reason.BAD_ARCHIVE, lambda: _sized(-512, name="notes.txt")),
    "negative size of a directory": (Reason.BAD_ARCHIVE, lambda: _sized(-512, tarfile.DIRTYPE)),
    "negative size of a long name": (
        Reason.BAD_ARCHIVE,
        lambda: _sized(-4096, tarfile.GNUTYPE_LONGNAME, padding=1 << 19),
    ),
    "negative size of a pax header": (
        Reason.BAD_ARCHIVE,
        lambda: _sized(-4096, tarfile.XHDTYPE, padding=1 << 19),
    ),
    "size of an exabyte": (Reason.BAD_ARCHIVE, lambda: _sized(1 << 60)),
    "endless sparse map": (Reason.BAD_ARCHIVE, _endless_sparse_map),
    "endless sparse map of the old form": (Reason.BAD_ARCHIVE, _endless_old_sparse_map),
    "many tiny zip members": (
        Reason.BAD_ARCHIVE,
        lambda: zip_of(*((f"f{n}", b"") for n in range(MAX_MEMBERS + 9))),
    ),
    "zip bomb": (Reason.TOO_LARGE, _zip_bomb),
    "zip bomb that lies": (Reason.BAD_ARCHIVE, _lying_zip),
    "gzip bomb": (Reason.TOO_LARGE, lambda: gzip.compress(bytes(64 << 20))),
    "tar larger than allowed": (
        Reason.TOO_LARGE,
        lambda: tar_of(files={CONFIG_FILE: CONFIG, WEIGHTS_FILE: bytes(2 << 20)}),
    ),
    "zip slip": (Reason.UNSAFE_PATH, lambda: zip_of(("../../etc/cron.d/x", b"x"))),
    "tar slip": (Reason.UNSAFE_PATH, lambda: tar_of(("../evil", b"x"))),
    "slip in the middle": (Reason.UNSAFE_PATH, lambda: tar_of(("a/../../evil", b"x"))),
    "absolute path": (Reason.UNSAFE_PATH, lambda: tar_of(("/etc/passwd", b"x"))),
    "absolute path in a zip": (Reason.UNSAFE_PATH, lambda: zip_of(("/etc/passwd", b"x"))),
    "backslashes": (Reason.UNSAFE_PATH, lambda: zip_of(("..\\evil", b"x"))),
    "drive letter": (Reason.UNSAFE_PATH, lambda: zip_of(("C:/evil", b"x"))),
    "hidden behind a NUL": (
        Reason.UNSAFE_PATH,
        lambda: zip_of().replace(b"adapter_config.json", b"adapter_config\0json"),
    ),
    "directory that slips": (Reason.UNSAFE_PATH, lambda: tar_of(_special(tarfile.DIRTYPE, "../up"))),
    "symbolic link": (
        Reason.SYMLINK,
        lambda: tar_of(_special(tarfile.SYMTYPE, target="/etc/passwd"), files={CONFIG_FILE: CONFIG}),
    ),
    "link to a member": (Reason.SYMLINK, lambda: tar_of(_special(tarfile.SYMTYPE, "other", CONFIG_FILE))),
    "hard link": (Reason.SYMLINK, lambda: tar_of(_special(tarfile.LNKTYPE, "other", "/etc/passwd"))),
    "link in a zip": (Reason.SYMLINK, _zip_link),
    "device": (Reason.NOT_A_REGULAR_FILE, lambda: tar_of(_special(tarfile.CHRTYPE, "zero"))),
    "pipe": (Reason.NOT_A_REGULAR_FILE, lambda: tar_of(_special(tarfile.FIFOTYPE, "pipe"))),
    "sparse file": (Reason.NOT_A_REGULAR_FILE, _sparse),
    "file twice": (Reason.AMBIGUOUS, lambda: tar_of((CONFIG_FILE, b'{"r": 8}'))),
    "file twice, spelt differently": (Reason.AMBIGUOUS, lambda: tar_of((f"./{CONFIG_FILE}", b'{"r": 8}'))),
    "two adapters": (Reason.AMBIGUOUS, lambda: zip_of((f"other/{CONFIG_FILE}", CONFIG))),
    "pickle": (
        Reason.PICKLE,
        lambda: zip_of(files={CONFIG_FILE: CONFIG, "adapter_model.bin": b"cos\nsystem\n(S'true'\ntR."}),
    ),
    "no adapter": (Reason.MISSING_FILE, lambda: tar_of(files={"readme.txt": b"hello"})),
    "empty tar": (Reason.MISSING_FILE, lambda: tar_of(files={})),
    "empty zip": (Reason.MISSING_FILE, lambda: zip_of(files={})),
}


# Small files that become large: to be unpacked where a server would allow their size.
BOMBS: Mapping[str, Builder] = {
    "bomb of size minus one": lambda: _sized(-1, padding=128 << 20),
    "bomb of size minus one in a pax header": lambda: _pax_sized(-1, 128 << 20),
    "bomb of a sparse map": lambda: gzip.compress(_endless_sparse_map()),
    "bomb of an old sparse map": lambda: gzip.compress(_endless_old_sparse_map()),
}
