"""A report's seal: a digest of all that it says, and a signature where a key is given."""

from typing import Any

from lorecall.adapters.core.canonical_json import digest
from lorecall.audit.reports.report import Content, Report, Seal
from lorecall.audit.reports.signing import check_envelope, sign
from securesystemslib.signer import CryptoSigner, SSlibKey


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
