"""What a report shows of a text by default: a keyed hash and its length."""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass

from lorecall.audit.reports.snippets import RedactedText

SALT_VARIABLE = "LORECALL_REPORT_SALT"


@dataclass(frozen=True, slots=True)
class Redactor:
    """Redacts texts with one secret salt, which no report holds.

    A short target such as a telephone number is found by trying all of them where the salt is known, so the
    salt is drawn for each report, or given by whoever wants to compare reports.

    Attributes:
        salt: The secret key of the hash.
        show: Whether to show the text as it is.
    """

    salt: bytes
    show: bool = False

    @property
    def salt_id(self) -> str:
        """Names the salt without giving it away: reports with the same name have comparable hashes."""
        return hashlib.sha256(b"lorecall salt id" + self.salt).hexdigest()[:12]

    def redact(self, text: str) -> RedactedText:
        """Return the text's hash and length, and the text only if it may be shown."""
        return RedactedText(
            hash=hmac.new(self.salt, text.encode(), hashlib.sha256).hexdigest()[:16],
            characters=len(text),
            text=text if self.show else None,
        )


def redactor(*, show: bool) -> Redactor:
    """Return a redactor with the salt of LORECALL_REPORT_SALT, or with a fresh one."""
    given = os.environ.get(SALT_VARIABLE, "")
    return Redactor(given.encode() if given else secrets.token_bytes(16), show)
