"""Canonical JSON (RFC 8785): one sequence of bytes for one value, for digests and signatures."""

import hashlib
from typing import Any

import rfc8785
from lorecall.adapters.core.errors import UsageError

MAX_INTEGER = 2**53 - 1
"""RFC 8785 takes a JSON number as a double; a larger integer is not exact in it."""


def canonical(value: Any) -> bytes:
    """Return the canonical UTF-8 bytes of JSON values.

    Raises:
        UsageError: It has no such form: a number that is not finite, an integer beyond 2^53, half of a surrogate
            pair, or a part that is no JSON. The message does not quote the value.
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError:
        why = "an integer beyond 2^53"
    except rfc8785.FloatDomainError:
        why = "a number that is not finite"
    except RecursionError:
        why = "parts that nest too deeply"
    except ValueError:
        why = "half of a surrogate pair, or a part that is no JSON"
    raise UsageError(f"no canonical JSON (RFC 8785): the value has {why}", hint="write it as a text")


def digest(value: Any) -> str:
    """Return the sha256 of the canonical bytes of JSON values, in hex. Raises like `canonical`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def exact(value: Any) -> Any:
    """Return JSON values with each integer beyond 2^53 as a text of its digits."""
    if isinstance(value, dict):
        return {name: exact(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [exact(one) for one in value]
    beyond = isinstance(value, int) and abs(value) > MAX_INTEGER
    return str(value) if beyond else value
