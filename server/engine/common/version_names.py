"""The engine's name of one version of an adapter, `name@version`, and the public name in it."""


def engine_name(name: str, version: str) -> str:
    """Return the name of one version inside the engine."""
    return f"{name}@{version}"


def public_name(name: str) -> str:
    """Return the name that callers use for an engine name."""
    return name.partition("@")[0]
