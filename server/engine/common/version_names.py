"""The engine's name of one version of an adapter, `name@version`, and the public name in it."""

import re

_ENGINE_NAME = re.compile(r"(.+)@[0-9a-f]{64}")


def engine_name(name: str, version: str) -> str:
    """Return the name of one version, a sha256 in hex, inside the engine."""
    return f"{name}@{version}"


def public_name(name: str) -> str:
    """Return the name that callers use for an engine name; any other name, a base's for one, is its own."""
    versioned = _ENGINE_NAME.fullmatch(name)
    return versioned[1] if versioned else name
