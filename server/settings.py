"""The server's settings: typed environment variables with one prefix; unknown ones are refused."""

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from lorecall.adapters.access.source_list import LOCAL, SourceList
from lorecall.adapters.core.errors import UsageError
from lorecall.server.state_folder import cached_folder, move_state, state_folder
from pydantic import (
    DirectoryPath,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

if TYPE_CHECKING:
    from lorecall.adapters.registry.registry import Registry

PREFIX = "LORECALL_"
CLIENT_KEYS = frozenset(
    {
        "LORECALL_API_KEY",
        "LORECALL_SERVER",
        "LORECALL_REPORT_SALT",
        "LORECALL_TRACEBACK",
    }
)
"""Read by the command line as a client, not by the server."""

RENAMED = {
    "LORECALL_REPORT_KEY": "set LORECALL_SIGNING_KEY to a file with a private Ed25519 key",
    "LORECALL_SOURCE_SCHEMES": "set LORECALL_SOURCES to prefixes, such as hf://*,s3://bucket/prefix/",
}


class ServerSettings(BaseSettings):
    """Settings of a lorecall server; each is the environment variable LORECALL_<NAME>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    store: Path = Field(
        default_factory=state_folder,
        description="directory of our own copies of the adapters, content-addressed; under $XDG_DATA_HOME if set",
    )
    adapters: dict[str, str] = Field(
        default_factory=dict,
        description="adapters to serve from the start, JSON: name to directory or address",
    )
    registry: str = Field(
        default="",
        description="database of names and versions: `sqlite:///path` or `postgresql://user@host/database`; "
        "empty for `registry.db` in the store",
    )
    events_days: int = Field(
        default=365,
        ge=1,
        le=36500,
        description="days that the registry keeps its events, and versions that nothing can make live any more",
    )
    audits_days: int = Field(
        default=3650,
        ge=1,
        le=36500,
        description="days that audits which are over are kept; a removed one leaves a tombstone with its seal",
    )
    local_roots: str = Field(
        default="",
        description="directories under which adapters may be added by local path, separated by `:`; empty for "
        "any on a server without API keys, which only this machine can reach, and none on one with keys",
    )
    sources: str = Field(
        default="hf://*,s3://*",
        description="prefixes of the addresses that adapters may be added from, such as "
        "`hf://acme/*,s3://bucket/prefix/`; an API key may have a narrower list of its own",
    )
    adapter_templates: Literal["operator", "all", "none"] = Field(
        default="operator",
        description="whose chat templates are used, each for the chats of the adapter that it comes with: those "
        "of adapters that the operator adds (by a key with `admin`, at the start, or on a server without keys), "
        "all, or none, also none that was taken before; a template is a program that runs here, in a sandbox "
        "that bounds neither its memory nor what a stuck one keeps busy",
    )
    base_names: str = Field(
        default="",
        description="further names of the base, separated by commas, that adapters may state as the model they "
        "were trained on, such as a hub id or the name of a folder",
    )
    shared: str = Field(
        default="",
        description="address such as `s3://bucket/adapters`, or a folder that all of them mount, where every "
        "adapter that is added is kept for the registry's other servers; empty where there are none, where they "
        "share the store, or where all adapters come from the hub or S3 and stay there",
    )
    max_adapter_bytes: int = Field(default=8 << 30, ge=1, description="the largest adapter, in bytes")
    download_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="seconds that one download of an adapter may take; what has arrived by then is kept",
    )
    max_body_bytes: int = Field(
        default=64 << 20,
        ge=1024,
        description="the largest body of a request that uploads no archive, in bytes",
    )
    admin_key: SecretStr = Field(
        default=SecretStr(""), description="an API key with every scope; at least 20 characters"
    )
    api_keys_file: FilePath | None = Field(
        default=None,
        description="YAML list of API keys: name, sha256, scopes, adapters (patterns), limits, expires, sources",
    )
    adapter_limits: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="limits by pattern of the model's name, JSON; the first that matches counts: "
        "requests_per_minute, tokens_per_minute, concurrent; counted by each process, see `LORECALL_LIMITS_URL`",
    )
    limits_url: SecretStr = Field(
        default=SecretStr(""),
        description="address of a Redis, such as `redis://:password@host:6379/0`, in which all processes count "
        "the rates of keys and models together; empty: each process counts by itself, as it does while Redis "
        "does not answer; `concurrent` is by process always",
    )
    access_log: bool = Field(
        default=True,
        description="write one line of JSON for each request to stdout, in the place of uvicorn's: time, request "
        "id, key, model, version, status, tokens, seconds; never a text",
    )
    max_items: int = Field(
        default=4096,
        ge=1,
        description="the most texts in one request: items to score, prompts or conversations of a batch",
    )
    audit_max_snippets: int = Field(
        default=100_000, ge=1, description="the most snippets of one audit, controls included"
    )
    audit_max_referenced_snippets: int = Field(
        default=250_000,
        ge=1,
        description="the most snippets, controls included, of an audit whose files are named by address; a "
        "training file may have any number of rows",
    )
    prefix_cache: Literal["key", "shared"] = Field(
        default="key",
        description="who shares cached prompts: the requests of one API key (`key`), or all, who can then "
        "measure by speed what others have asked (`shared`)",
    )
    default_logprobs: Literal["auto", "on", "off"] = Field(
        default="on",
        description="top-1 log-probabilities where a request does not say; `auto` is this release's choice: on",
    )
    open_metrics: bool = Field(
        default=False, description="whether `/metrics`, which names adapters, and `/load` need no API key"
    )
    metrics_adapters: int = Field(
        default=200, ge=1, description="adapters with metrics of their own; the others share `other`"
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, le=3600, description="seconds between two polls of the registry"
    )
    drain_seconds: float = Field(
        default=300.0, gt=0, description="seconds that a replaced version may take to finish its requests"
    )
    load_checks: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of an adapter's loads into the engine, after its first one here, after which a short "
        "text is scored and compared with the first answer; an adapter that answers otherwise is loaded anew, "
        "and is not served if it still does; these checks take 2 % of the time at most; 0 for none",
    )
    require_audit: FilePath | None = Field(
        default=None, description="the policy that an adapter's audit must meet; `--require-audit` sets it"
    )
    audit_candidates: FilePath | DirectoryPath | None = Field(
        default=None,
        description="snippets that every adapter is audited for, in any form that `lorecall audit run` reads; "
        "`--require-audit` needs them",
    )
    audit_controls: FilePath | DirectoryPath | None = Field(
        default=None, description="control snippets of every adapter's audit, in the same forms"
    )
    audit_framings: str = Field(
        default="",
        description="framings in which the gate's audits ask, separated by commas: `raw`, `chat`; a leak in any "
        "of them refuses; empty for `raw`, and `chat` where the base has a chat template",
    )
    reaudit_stale: bool = Field(
        default=False,
        description="whether live adapters whose last audit no longer holds are audited again, a few at a time "
        "and after all others, by the policy and the snippets of `--require-audit`; none is taken down by it",
    )
    audit_spool: Path | None = Field(
        default=None,
        description="folder for the texts of unfinished audits, readable by its owner only; empty for `audits` "
        "in the store; servers that may take over each other's audits need the same folder",
    )
    signing_key: FilePath | None = Field(
        default=None,
        description="private Ed25519 key (PEM) that signs the reports of audits; the command line reads it, too",
    )
    audit_batch: int = Field(
        default=32, ge=1, le=4096, description="snippets of an audit that are scored and recorded together"
    )
    audit_lease_seconds: float = Field(
        default=60.0,
        gt=0,
        le=86400,
        description="seconds without a heartbeat after which another server takes an audit over",
    )
    int8_kernel: Literal["auto", "exact", "onednn"] = Field(
        default="auto",
        description="products of an INT8 base on a CPU: oneDNN's, our exact ones, or auto: exact where a probe "
        "finds that oneDNN saturates (no VNNI)",
    )

    @field_validator("local_roots")
    @classmethod
    def check_roots(cls, roots: str) -> str:
        """Check that every root is a directory. Raises ValueError, with the one that is not."""
        for root in filter(None, roots.split(os.pathsep)):
            if not Path(root).is_absolute():
                raise ValueError(
                    f"{root!r} is no absolute path; give directories separated by {os.pathsep!r}, not JSON"
                )
            if not Path(root).is_dir():
                raise ValueError(f"{root!r} is not a directory")
        return roots

    @field_validator("reaudit_stale")
    @classmethod
    def _by_a_policy(cls, wanted: bool, others: ValidationInfo) -> bool:  # noqa: FBT001  pydantic's
        if wanted and not others.data.get("require_audit"):
            raise ValueError("there is no policy to audit by: name one with --require-audit")
        return wanted

    @field_validator("store", "audit_spool")
    @classmethod
    def check_folder(cls, folder: Path | None) -> Path | None:
        """Check that a folder is there or can be made. Raises ValueError if not."""
        if folder is not None:
            above = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
            if not above.is_dir():
                raise ValueError(f"{above} is not a directory")
            if not os.access(above, os.W_OK | os.X_OK):
                raise ValueError(f"{above} cannot be written to")
        return folder

    @field_validator("sources")
    @classmethod
    def _addresses(cls, value: str) -> str:
        try:
            places = SourceList(_prefixes(value)).places()
        except UsageError as error:
            raise ValueError(str(error)) from error
        if any(place.scheme == LOCAL for place in places):
            raise ValueError("local folders are named in LORECALL_LOCAL_ROOTS")
        return value

    def names_of_base(self) -> tuple[str, ...]:
        """Return the further names that adapters may state for the base."""
        return _prefixes(self.base_names)

    def registry_url(self) -> str:
        """Return the registry's URL."""
        return self.registry or f"sqlite:///{self.store / 'registry.db'}"

    def spool_folder(self) -> Path:
        """Return the folder for the texts of unfinished audits."""
        return self.audit_spool or self.store / "audits"

    def allowed_sources(self, *, keyed: bool) -> SourceList:
        """Return what adapters may be added from: addresses and local directories."""
        return SourceList((*_prefixes(self.sources), *map(str, self.roots(keyed=keyed))))

    def roots(self, *, keyed: bool) -> tuple[Path, ...]:
        """Return the directories under which local adapters may lie."""
        stated = tuple(Path(root) for root in self.local_roots.split(os.pathsep) if root)
        if not stated and not keyed:
            return (Path("/"),)
        return stated

    def initial_adapters(self) -> dict[str, str]:
        """Return the adapters to serve from the start: name to absolute path or address."""
        return {
            name: source if "://" in source else str(from_home(source).absolute())
            for name, source in self.adapters.items()
        }

    def with_adapters(self, adapters: dict[str, str]) -> Self:
        """Return these settings with more adapters to serve from the start."""
        return self.model_copy(update={"adapters": {**self.adapters, **adapters}})

    def open_registry(self) -> "Registry":
        """Open the registry, after making the folder of the default one, or moving it from an older place.

        Raises:
            UsageError: An older release's state cannot be moved, because a server is using it.
        """
        from lorecall.adapters.registry.registry import Registry  # sqlalchemy takes long to import

        if "store" not in self.model_fields_set:
            move_state(cached_folder(), self.store)
        self.store.mkdir(parents=True, exist_ok=True)
        return Registry(self.registry_url(), timedelta(days=self.events_days))

    def secrets(self) -> tuple[tuple[str, str], ...]:
        """Return (origin, secret) of each key with every scope."""
        secret = self.admin_key.get_secret_value()
        return (("LORECALL_ADMIN_KEY", secret),) if secret else ()


def from_home(path: str) -> Path:
    """Return a path whose `~` may stand for a home; "~nobody" of no such user stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  whose own raises a RuntimeError there


def _prefixes(listed: str) -> tuple[str, ...]:
    return tuple(prefix for part in listed.split(",") if (prefix := part.strip()))


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
                hint=RENAMED.get(key) or f"settings: {', '.join(sorted(known | CLIENT_KEYS))}",
                param=key,
            )
    try:
        return ServerSettings()
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = PREFIX + "_".join(str(part) for part in first["loc"][:1]).upper()
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "path_not_file":
            what = f"{first['input']} is not a file"
        raise UsageError(f"{key}: {what}", hint="see the settings in docs/settings.md", param=key) from error
    except SettingsError as error:  # names the field that is not JSON
        raise UsageError(
            f"a LORECALL_ variable is not JSON: {error}", hint="see the settings in docs/settings.md"
        ) from error
