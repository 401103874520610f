"""The files of a tokenizer that trainers save beside an adapter: its chat template, and its added tokens."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorecall.adapters.core.beneath import Folder
from lorecall.adapters.core.refusals import ConfigRefusedError, FileRefusedError, Reason
from lorecall.adapters.core.strict_json import SURROGATE, parse_object
from lorecall.adapters.peft_format.files import TOKENIZER_FILES, open_plain

TEMPLATE_FILE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"
COMPANIONS = (TEMPLATE_FILE, "chat_template.json", CONFIG, "added_tokens.json", TOKENIZER)
MAX_COMPANION_BYTES = 1 << 20
"""What is parsed of each; in `tokenizer.json`, which can have 30 MB, the added tokens come first."""

MAX_TEMPLATE_BYTES = 1 << 16
_NO_TEMPLATE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Companions:
    """What is known of the tokenizer beside an adapter, or of a base's.

    Attributes:
        chat_template: The Jinja template; "" without one.
        template_file: The file that has it.
        added_tokens: The tokens beyond the vocabulary that its files list, by text; None if no file lists any.
        digests: By the name of each file of `TOKENIZER_FILES` that could be read, sha256 (hex) over all of it.
    """

    chat_template: str = ""
    template_file: str = ""
    added_tokens: frozenset[str] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


NO_COMPANIONS = Companions()


def read_companions(directory: Path | Folder, *, follow_links: bool = False) -> Companions:
    """Read the tokenizer's files of a directory. What cannot be read, or parsed, counts as not there.

    Args:
        directory: A PEFT directory, or a base's.
        follow_links: Whether a file may be a link out of the directory.
    """
    raw, digests = dict[str, bytes](), dict[str, str]()
    for name in TOKENIZER_FILES:
        with suppress(FileRefusedError), open_plain(directory, name, follow_links=follow_links) as file:
            if name in COMPANIONS:
                raw[name] = file.read(MAX_COMPANION_BYTES)
                file.seek(0)
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    parsed: dict[str, dict[str, Any]] = {}
    for name in ("chat_template.json", CONFIG, "added_tokens.json"):
        with suppress(ConfigRefusedError):
            parsed[name] = parse_object(raw[name], name) if name in raw else {}
    template_file, template = _template(raw, parsed)
    return Companions(template, template_file, _added_tokens(raw, parsed), digests)


def own_template(beside: Companions, base: Companions) -> str:
    """Return the chat template beside an adapter; "" without one, and where it is the base's."""
    return "" if beside.chat_template == base.chat_template else beside.chat_template


def template_digest(template: str) -> str:
    """Return sha256 (hex) over a chat template; "" for none."""
    return hashlib.sha256(template.encode()).hexdigest() if template else ""


def check_template(template: str, name: str) -> None:
    """Check that a chat template can be used: its size, and that the library which will render it parses it.

    Args:
        template: Its text, from whoever sent the adapter.
        name: The file that it came in.

    Raises:
        FileRefusedError: It is too large.
        ConfigRefusedError: It is no Jinja template.
    """
    from jinja2 import TemplateError, TemplateSyntaxError  # noqa: PLC0415
    from transformers.utils.chat_template_utils import (  # noqa: PLC0415  # seconds to import
        _compile_jinja_template,
    )

    size = len(template.encode("utf-8", "surrogateescape"))
    if size > MAX_TEMPLATE_BYTES:
        raise FileRefusedError(
            Reason.TOO_LARGE,
            f"the chat template has {size} bytes",
            hint=f"it may have {MAX_TEMPLATE_BYTES}; without it the base's is used",
            param=name,
        )
    problem = "is no text in UTF-8" if "\0" in template or SURROGATE.search(template) else ""
    try:
        _compile_jinja_template(template)
    except (TemplateError, RecursionError, ValueError, SyntaxError) as error:  # their words quote it
        where = f" in line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        problem = problem or f"is no Jinja template: {type(error).__name__}{where}"
    if problem:
        raise ConfigRefusedError(
            Reason.BAD_TEMPLATE,
            f"the chat template {problem}",
            hint="mend it, or leave it out: without it the base's is used",
            param=name,
        )


def _template(raw: Mapping[str, bytes], parsed: Mapping[str, dict[str, Any]]) -> tuple[str, str]:
    """Return the file that Transformers would take the chat template from, and the template."""
    if TEMPLATE_FILE in raw:
        return TEMPLATE_FILE, raw[TEMPLATE_FILE].decode("utf-8", "surrogateescape")
    for name in ("chat_template.json", CONFIG):
        found = parsed.get(name, _NO_TEMPLATE).get("chat_template")
        if isinstance(found, list):  # several by name, as older files have them
            named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
            found = named[0].get("template") if named else None
        if isinstance(found, str) and found:
            return name, found
    return "", ""


def _added_tokens(raw: Mapping[str, bytes], parsed: Mapping[str, dict[str, Any]]) -> frozenset[str] | None:
    """Return the added tokens by text, from every file that lists some."""
    lists: list[Any] = []
    decoder = parsed.get(CONFIG, {}).get("added_tokens_decoder")
    lists += list(decoder.values()) if isinstance(decoder, dict) else []
    lists += [{"content": token} for token in parsed.get("added_tokens.json", {})]
    _, key, rest = raw.get(TOKENIZER, b"").partition(b'"added_tokens":')
    if key:
        with suppress(ValueError, RecursionError):
            listed, _ = json.JSONDecoder().raw_decode(rest.decode("utf-8", "ignore").lstrip())
            lists += listed if isinstance(listed, list) else []
    texts = (one.get("content") for one in lists if isinstance(one, dict))
    found = frozenset(text for text in texts if isinstance(text, str))
    return found if lists else None
