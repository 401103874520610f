"""What the server is told through the environment: typed, one prefix, nothing unknown."""

import os
from pathlib import Path
from typing import Any, Literal

from lorecall.adapters.errors import UsageError
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

PREFIX = "LORECALL_"
CLIENT_KEYS = frozenset(
    {"LORECALL_API_KEY", "LORECALL_SERVER", "LORECALL_REPORT_KEY", "LORECALL_REPORT_SALT"}
)
"""Read by the command line as a client, not by the server."""


class ServerSettings(BaseSettings):
    """Settings of a lorecall server; each is the environment variable LORECALL_<NAME>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    store: Path = Field(
        default=Path.home() / ".cache" / "lorecall" / "adapters",
        description="directory of our own copies of the adapters, content-addressed",
    )
    adapters: dict[str, str] = Field(
        default_factory=dict, description="adapters to serve from the start, JSON: name to directory"
    )
    int8_kernel: Literal["auto", "exact", "onednn"] = Field(
        default="auto",
        description="products of an INT8 base on a CPU: oneDNN's, our exact ones, or auto: exact where a probe "
        "finds that oneDNN saturates (no VNNI)",
    )


def read_settings() -> ServerSettings:
    """Return the settings from the environment.

    Raises:
        UsageError: If a variable is unknown or its value is bad; names the variable.
    """
    known = {PREFIX + name.upper() for name in ServerSettings.model_fields}
    for key in os.environ:
        if key.startswith(PREFIX) and key not in known | CLIENT_KEYS:
            raise UsageError(
                f"{key} is not a setting of lorecall",
                hint=f"settings: {', '.join(sorted(known | CLIENT_KEYS))}",
                param=key,
            )
    try:
        return ServerSettings()
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = PREFIX + "_".join(str(part) for part in first["loc"][:1]).upper()
        raise UsageError(
            f"{key}: {first['msg']}", hint="see the settings in docs/settings.md", param=key
        ) from error
    except SettingsError as error:  # names the field that is not JSON
        raise UsageError(
            f"LORECALL_ADAPTERS is not JSON: {error}", hint='such as {"name": "/directory"}', param="adapters"
        ) from error
