"""A report's seal: a digest of all that it says, and a signature where a key is given."""

import hashlib
import hmac
import json
import os

from lorecall.audit.reports.report import Content, Report, Seal

KEY_VARIABLE = "LORECALL_REPORT_KEY"


def seal(content: Content) -> Report:
    """Return the report with its seal: a sha256, and an HMAC if LORECALL_REPORT_KEY is set.

    The digest finds a change made by accident. Only the signature finds one made on purpose, by somebody who
    does not have the key.
    """
    parts = {name: getattr(content, name) for name in Content.model_fields}
    signed = _canonical(content)
    key = os.environ.get(KEY_VARIABLE, "")
    signature = hmac.new(key.encode(), signed, hashlib.sha256).hexdigest() if key else ""
    return Report(**parts, seal=Seal(sha256=hashlib.sha256(signed).hexdigest(), signature=signature))


def check_seal(report: Report) -> list[str]:
    """Return what is wrong with a report's seal; nothing if it holds."""
    content, found = _canonical(report), report.seal
    if found.sha256 != hashlib.sha256(content).hexdigest():
        return ["the report was changed after it was written"]
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        return []
    if not found.signature:
        return [f"the report is not signed, and {KEY_VARIABLE} asks for it"]
    expected = hmac.new(key.encode(), content, hashlib.sha256).hexdigest()
    return [] if hmac.compare_digest(found.signature, expected) else ["the signature is not by this key"]


def _canonical(content: Content) -> bytes:
    values = content.model_dump(mode="json", exclude={"seal"})
    return json.dumps(
        values, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()
