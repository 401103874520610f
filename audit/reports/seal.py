"""A report's seal: a digest of all that it says, and a signature where a key is given."""

import hashlib
import hmac
import json
import os
from typing import Any

KEY_VARIABLE = "LORECALL_REPORT_KEY"


def seal(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with its seal: a sha256, and an HMAC if LORECALL_REPORT_KEY is set.

    The digest finds a change made by accident; only the signature, by who does not have the key, stands against
    one made on purpose.
    """
    content = _canonical(report)
    key = os.environ.get(KEY_VARIABLE, "")
    signature = hmac.new(key.encode(), content, hashlib.sha256).hexdigest() if key else ""
    return {**report, "seal": {"sha256": hashlib.sha256(content).hexdigest(), "signature": signature}}


def check_seal(report: dict[str, Any]) -> list[str]:
    """Return what is wrong with a report's seal; nothing if it holds."""
    content, found = _canonical(report), report["seal"]
    if found["sha256"] != hashlib.sha256(content).hexdigest():
        return ["the report was changed after it was written"]
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        return []
    if not found["signature"]:
        return [f"the report is not signed, and {KEY_VARIABLE} asks for it"]
    expected = hmac.new(key.encode(), content, hashlib.sha256).hexdigest()
    return [] if hmac.compare_digest(found["signature"], expected) else ["the signature is not by this key"]


def _canonical(report: dict[str, Any]) -> bytes:
    content = {name: value for name, value in report.items() if name != "seal"}
    return json.dumps(
        content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()
