"""Seals of reports, and signatures that third parties can check.

A signature is Ed25519, in a DSSE envelope around an in-toto statement:
https://github.com/secure-systems-lab/dsse, https://in-toto.io/Statement/v1
"""

import os
import stat
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from lorecall.adapters.core.canonical_json import canonical, digest
from lorecall.adapters.core.errors import UsageError
from lorecall.audit.reports.report import PAYLOAD_TYPE, Content, Envelope, Report, Seal
from securesystemslib.dsse import Envelope as Dsse
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:lorecall:audit-report:v1"
"""A name, not an address: docs/audit.md says what the predicate holds."""
MAX_KEY_BYTES = 1 << 16
MAKE_KEY = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"
MAKE_PUBLIC = "make it with: openssl pkey -in key.pem -pubout -out key.pub.pem"


def read_signing_key(path: Path) -> CryptoSigner:
    """Return what signs with a private Ed25519 key, PEM of PKCS #8 without a pass phrase.

    Raises:
        UsageError: The file cannot be read, others may read it, or it holds no such key; no message quotes it.
    """
    content = _read_key(path)
    about = path.stat()
    if about.st_uid == os.getuid() and stat.S_IMODE(about.st_mode) & 0o077:
        raise UsageError(
            f"others may use the private key {str(path)!r}: its mode is {stat.S_IMODE(about.st_mode):04o}",
            hint=f"chmod 600 {path}",
        )
    try:
        key = load_pem_private_key(content, None)
    except TypeError:
        raise UsageError(
            f"the private key {str(path)!r} has a pass phrase, which nobody is here to type",
            hint="store it without one, readable by the server's user only",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{str(path)!r} holds no private key in PEM", hint=MAKE_KEY) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"the private key {str(path)!r} is not of Ed25519", hint=MAKE_KEY)
    return CryptoSigner(key)


def read_public_key(path: Path) -> SSlibKey:
    """Return a public Ed25519 key, PEM.

    Raises:
        UsageError: The file cannot be read, or holds no such key.
    """
    content = _read_key(path)
    if b"PRIVATE KEY" in content:
        raise UsageError(f"{str(path)!r} is a private key; a check needs the public one", hint=MAKE_PUBLIC)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{str(path)!r} holds no public key in PEM", hint=MAKE_PUBLIC) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"the public key {str(path)!r} is not of Ed25519", hint=MAKE_PUBLIC)
    return SSlibKey.from_crypto(key)


def _read_key(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"no key at {str(path)!r}", hint=MAKE_KEY)
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise UsageError(f"the key {str(path)!r} cannot be read: {error.strerror}") from error


def statement(content: Content, sha256: str) -> dict[str, Any]:
    """Return the in-toto statement about a report: what was audited, and what came out.

    Args:
        content: The report.
        sha256: The digest of its canonical JSON without the seal.
    """
    subjects = (
        (content.adapter.name, content.adapter.version),
        (content.engine.base, content.engine.base_digest),
        (content.inputs.candidates.name, content.inputs.candidates.digest),
    )
    kinds = ("adapter", "base", "candidates")
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": f"{kind}:{name}", "digest": {"sha256": digest}}
            for kind, (name, digest) in zip(kinds, subjects, strict=True)
            if digest  # of an engine that does not say what it serves there is none
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "report": {"sha256": sha256},
            "schema_version": content.schema_version,
            "tool": content.tool.values(),
            "started": content.started,
            "summary": content.summary.values(),
            "gate": {
                "passed": content.gate.passed,
                "exit_code": int(content.gate.exit_code),
                "reasons": list(content.gate.reasons),
            },
            "policy": content.gate.policy,
        },
    }


def sign(content: Content, sha256: str, signer: CryptoSigner) -> Envelope:
    """Return the signed statement about a report."""
    envelope = Dsse(canonical(statement(content, sha256)), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return Envelope.model_validate(envelope.to_dict())


def check_envelope(content: Content, sha256: str, envelope: Envelope, key: SSlibKey | None) -> list[str]:
    """Return what is wrong with a signed statement: it must be about this report, and by the key where given."""
    try:
        signed = Dsse.from_dict(envelope.values())
    except ValueError:  # base64 among them
        return ["the signature cannot be read"]
    problems = []
    if signed.payload != canonical(statement(content, sha256)):
        problems.append("the signed statement is about another report")
    if key is not None:
        try:
            signed.verify([key], 1)
        except VerificationError:
            problems.append("the signature is not by this key")
    return problems


def seal(content: Content, signer: CryptoSigner | None = None) -> Report:
    """Return the report with its seal: a sha256, and a signed statement where there is a key.

    The digest finds a change made by accident. Only the signature finds one made on purpose, by somebody who
    does not have the key.
    """
    parts = {name: getattr(content, name) for name in Content.model_fields}
    sha256 = digest(_sealed(content))
    envelope = None if signer is None else sign(content, sha256, signer)
    return Report(**parts, seal=Seal(sha256=sha256, envelope=envelope))


def check_seal(report: Report, key: SSlibKey | None = None) -> list[str]:
    """Return what is wrong with a report's seal; nothing if it holds.

    Args:
        report: The report.
        key: Who must have signed it; None checks no signature.
    """
    found = report.seal
    if found.sha256 != digest(_sealed(report)):
        return ["the report was changed after it was written"]
    if found.envelope is None:
        return [] if key is None else ["the report is not signed"]
    return check_envelope(report, found.sha256, found.envelope, key)


def _sealed(content: Content) -> dict[str, Any]:
    return content.model_dump(mode="json", exclude={"seal"})
