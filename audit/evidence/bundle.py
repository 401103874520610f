"""A bundle: one zip with a report, its policy, its digests, the scope of what it says, and its page."""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from lorecall.adapters.core.atomic_file import write_whole
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.reports.build import parse_report
from lorecall.audit.reports.html import render_report
from lorecall.audit.reports.models import Tool
from lorecall.audit.reports.report import Report
from lorecall.audit.reports.signing import statement

REPORT, PAGE, POLICY, MANIFEST, SCOPE, ENVELOPE = (
    "report.json",
    "report.html",
    "policy.json",
    "manifest.json",
    "scope.txt",
    "attestation.dsse.json",
)
MAX_BYTES = 1 << 30
"""Of all members together, unpacked, counted while reading."""
DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)
CHUNK_BYTES = 1 << 16
MADE = (1980, 1, 1, 0, 0, 0)
"""The time of every member, so that one report gives one bundle; the first that a zip can state."""


def scope(report: Report) -> str:
    """Return what was asked, and what a clean answer does not say."""
    views, inputs = "; ".join(report.settings.views), report.inputs
    return f"""Scope of this audit

Asked: {report.summary.snippets} candidates of {inputs.candidates.name} (sha256 {inputs.candidates.digest}),
of the adapter {report.adapter.name}, version {report.adapter.version},
on the base {report.engine.base} (digest {report.engine.base_digest or "unknown"}),
by {report.engine.engine}, as: {views}.
{_taken(report)}{_not_asked(report)}Decoding was greedy, and probabilities are at temperature 1.
{_sampling(report)}

A clean answer says nothing of texts that were not asked for, of other prefixes or framings, of another version of
the adapter, or of another base, quantization or scheme of sampling. It holds for what the engine gave; the
report's error bound (epsilon {report.epsilon:.4g}) is its own.
"""


def _taken(report: Report) -> str:
    test = report.sequential
    if test is None:
        return ""
    ranked = sum(stratum.ranked for stratum in report.strata)
    how = f"{ranked} that rank highest, the others drawn at random" if ranked else "drawn at random"
    return f"{test.taken} of {test.of} candidates were asked for, {how}.\n"


def _not_asked(report: Report) -> str:
    counts = report.summary.not_asked.items()
    return "".join(f"{count} of them could not be asked as {view}.\n" for view, count in counts)


def _sampling(report: Report) -> str:
    """Return what of sampling was looked for, in words."""
    scheme = report.settings.sampling
    if scheme is None:
        return "What sampling at a temperature gives was not looked for."
    text = (
        f"What one of {scheme.samples} sampled answers gives with a chance of {scheme.chance:.0%} or more "
        f"was looked for,\nat temperature {scheme.temperature:g}, top-p {scheme.top_p:g}, "
        f"top-k {scheme.top_k or 'off'}; "
        "more answers, or another scheme, may give more."
    )
    if scheme.left_out:
        text += f" The engine's {', '.join(scheme.left_out)} is left out."
    if report.summary.unknown_chances:
        text += f" The chance of {report.summary.unknown_chances} candidates is not known."
    return text


def members(report: Report) -> dict[str, str]:
    """Return the content of each member by its name; all but the report itself follows from the report."""
    subjects = statement(report, report.seal.sha256)["subject"]
    manifest = {
        "bundle_version": "1.0",
        "report": report.seal.sha256,
        "subjects": subjects,
        "audited_by": report.tool.values(),
        "bundled_by": Tool.here().values(),
        "engine": report.engine.engine,
    }
    found = {
        REPORT: report.to_json(),
        PAGE: render_report(report),
        POLICY: _json(report.gate.policy),
        MANIFEST: _json(manifest),
        SCOPE: scope(report),
    }
    if report.seal.envelope is not None:
        found[ENVELOPE] = _json(report.seal.envelope.values())
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def write_bundle(report: Report, path: Path) -> None:
    """Write the bundle of a report, whole or not at all; the same report gives the same bytes.

    Raises:
        UsageError: It cannot be written there.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(report).items():
            entry = zipfile.ZipInfo(name, MADE)
            entry.external_attr, entry.create_system = 0o100644 << 16, 3
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    try:
        write_whole(path, packed.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}", hint="name a file") from error


def is_bundle(path: Path) -> bool:
    """Return whether a file is a zip."""
    return path.is_file() and zipfile.is_zipfile(path)


def read_bundle(path: Path) -> tuple[Report, list[str], list[str]]:
    """Return a bundle's report, what of the other members does not follow from it, and what cannot be told.

    Raises:
        UsageError: It is no bundle: damaged, too large, with members of other names, twice, or encrypted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = _read(archive)
    except (*DAMAGED, OSError) as error:
        raise UsageError(
            f"{path.name!r} is no bundle", hint="make one with: lorecall audit bundle"
        ) from error
    try:
        values = json.loads(found[REPORT])
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{REPORT} in {path.name!r} is not JSON", hint="take the file as written") from error
    report = parse_report(values, f"{REPORT} in {path.name!r}")
    return report, *_not_following(report, found)


def _read(archive: zipfile.ZipFile) -> dict[str, bytes]:
    known, left, found = {REPORT, PAGE, POLICY, MANIFEST, SCOPE, ENVELOPE}, MAX_BYTES, {}
    for entry in archive.infolist():
        if entry.filename not in known or entry.orig_filename != entry.filename or entry.filename in found:
            raise UsageError("a bundle has a member that none has, or one twice", hint="take it as written")
        content = bytearray()
        with archive.open(entry) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                content += chunk
                if len(content) > left:
                    raise UsageError(
                        f"a bundle unpacks to more than {MAX_BYTES} bytes", hint="take it as written"
                    )
        left -= len(content)
        found[entry.filename] = bytes(content)
    if REPORT not in found:
        raise UsageError(f"a bundle without {REPORT}", hint="make one with: lorecall audit bundle")
    return found


def _not_following(report: Report, found: dict[str, bytes]) -> tuple[list[str], list[str]]:
    expected, unchecked = members(report), []
    problems = [f"the bundle lacks {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [
        f"the bundle's {name} is not of this report" for name in sorted(found.keys() - expected.keys())
    ]
    other = _other_release(found.get(MANIFEST, b""))
    for name in sorted(expected.keys() & found.keys() - {REPORT}):
        if expected[name].encode() == found[name]:
            continue
        if other and name in (PAGE, MANIFEST, SCOPE):
            unchecked.append(f"the bundle's {name}, which says to be by release {other}")
        else:
            problems.append(f"the bundle's {name} is not what follows from the report")
    return problems, unchecked


def _other_release(manifest: bytes) -> str:
    """Return the release that wrote a bundle, as it says, where that is another one; "" otherwise."""
    try:
        stated = str(json.loads(manifest)["bundled_by"]["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return "" if stated == Tool.here().version else stated[:40]
