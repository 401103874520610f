"""Keys, passwords and random strings, by detect-secrets' plugins and its measure of entropy."""

import re
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

from lorecall.audit.discovery.spans import Tag

Found = tuple[Tag, int, int]

LONG = 20
"""Every key that the plugins know, and every random string of ours, stands in a word of so many characters."""
LONG_WORD = re.compile(rf"\S{{{LONG}}}")
PLUGINS = {
    "aws.AWSKeyDetector": ("akia", "asia", "abia", "acca", "a3t", "aws"),
    "azure_storage_key.AzureStorageKeyDetector": ("accountkey=",),
    "github_token.GitHubTokenDetector": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    "gitlab_token.GitLabTokenDetector": ("gl", "gr1348941"),
    "jwt.JwtTokenDetector": ("eyj",),
    "mailchimp.MailchimpDetector": ("-us",),
    "npm.NpmDetector": (":_authtoken=",),
    "openai.OpenAIDetector": ("t3blbkfj",),
    "pypi_token.PypiTokenDetector": ("pypi-ag",),
    "sendgrid.SendGridDetector": ("sg.",),
    "slack.SlackDetector": ("xox", "hooks.slack.com"),
    "square_oauth.SquareOAuthDetector": ("sq0csp-",),
    "stripe.StripeDetector": ("k_live_",),
    "telegram_token.TelegramBotTokenDetector": (":",),
    "twilio.TwilioKeyDetector": ("ac", "sk"),
}
"""Plugins, and in lower case what a text must hold for each to match."""
KEYWORDS = ("key", "pass", "pwd", "secret", "contrase")
PROSE = re.compile(
    r"\b(?:(?P<key>(?:api|access|secret|license|licence)[ _-]?key|(?:access|api|auth|bearer)[ _-]?token)"
    r"|passwor[dt]|passwd|passphrase|passcode|pwd|pin)\b[^\n:=\"'`.]{0,40}?(?:\bis\b|\bist\b|:|=)\s*"
    r"(?P<quote>[\"'`]?)(?P<value>[^\s\"'`]{4,128})",
    re.IGNORECASE,
)
SAID = re.compile("pass|pwd|pin|key|token")
PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----\s*([A-Za-z0-9+/=\s]{16,}?)\s*(?:-----END|\Z)"
)
AUTHORITY = re.compile(r"://[^\s:/@]+:([^\s:/@]+)@")
RANDOM = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
LONGEST_KEY = 400


class Secrets:
    """Finds keys, passwords and random strings; the first text loads the plugins."""

    @cached_property
    def _plugins(self) -> list[tuple[Any, tuple[str, ...]]]:
        found = []
        for name, literals in PLUGINS.items():
            module, _, kind = name.partition(".")
            found.append((getattr(import_module(f"detect_secrets.plugins.{module}"), kind)(), literals))
        return found

    @cached_property
    def _keyword(self) -> Any:
        return import_module("detect_secrets.plugins.keyword").KeywordDetector()

    @cached_property
    def _entropies(self) -> tuple[Any, Any]:
        module = import_module("detect_secrets.plugins.high_entropy_strings")
        return module.HexHighEntropyString(), module.Base64HighEntropyString()

    def find(self, text: str, *, everywhere: bool = False) -> Iterator[Found]:
        """Yield the secrets of a text; `everywhere` runs every plugin, as a check of what is asked before."""
        lower = text.lower()
        if everywhere or LONG_WORD.search(text):
            yield from self._keys(text, lower, everywhere=everywhere)
            yield from self._random(text)
        if everywhere or "PRIVATE KEY" in text:
            bodies = (match.span(1) for match in PEM.finditer(text))
            yield from ((Tag.KEY, start, min(end, start + LONGEST_KEY)) for start, end in bodies)
        if everywhere or SAID.search(lower):
            yield from _in_prose(text)
        if everywhere or "://" in text:
            yield from ((Tag.PASSWORD, *match.span(1)) for match in AUTHORITY.finditer(text))
        quoted = "'" in text or '"' in text or "`" in text
        if everywhere or (quoted and any(word in lower for word in KEYWORDS)):
            yield from self._by_keyword(text)

    def _keys(self, text: str, lower: str, *, everywhere: bool) -> Iterator[Found]:
        for plugin, literals in self._plugins:
            if everywhere or any(one in lower for one in literals):
                yield from _matches(plugin, text)

    def _random(self, text: str) -> Iterator[Found]:
        """Yield words of letters and digits whose entropy is over detect-secrets' limit for their alphabet."""
        for match in RANDOM.finditer(text):
            word = match.group()
            if len(word) > LONGEST_KEY or word.isalpha() or not any(map(str.isalpha, word)):
                continue
            by_hex, by_base64 = self._entropies
            plugin = by_hex if all(one in by_hex.charset for one in word) else by_base64
            if plugin.calculate_shannon_entropy(word) > plugin.entropy_limit:
                yield Tag.ENTROPY, match.start(), match.end()

    def _by_keyword(self, text: str) -> Iterator[Found]:
        start = 0
        for line in text.split("\n"):
            for value in self._keyword.analyze_string(line):
                yield from ((tag, start + a, start + b) for tag, a, b in _places(Tag.PASSWORD, line, value))
            start += len(line) + 1


def _matches(plugin: Any, text: str) -> Iterator[Found]:
    """Yield what a plugin's patterns match: the whole, or the group that is the secret within its surroundings.

    Its own `analyze_string` returns a short group, such as "ghp", in place of the key.
    """
    valid = getattr(plugin, "is_formally_valid", None)
    for pattern in plugin.denylist:
        for match in pattern.finditer(text):
            group = 1 if match.re.groups and len(match[1] or "") >= LONG else 0
            if valid is None or valid(match[group]):
                yield Tag.KEY, *match.span(group)


def _places(tag: Tag, text: str, value: str) -> Iterator[Found]:
    """Yield every place of a value that a plugin returned without one."""
    start = text.find(value) if len(value) >= 4 else -1
    while start >= 0:
        yield tag, start, start + len(value)
        start = text.find(value, start + len(value))


def _in_prose(text: str) -> Iterator[Found]:
    """Yield what a sentence calls a password or a key, where it is quoted or looks like one."""
    for match in PROSE.finditer(text):
        start, value = match.start("value"), match["value"]
        value = value if match["quote"] else value.rstrip(".,;:!?)")
        looks = any(map(str.isdigit, value)) or any(map(str.isupper, value[1:])) or bool(match["quote"])
        if len(value) >= 4 and looks and not value.startswith(("<", "{", "[", "http")):
            yield Tag.KEY if match["key"] else Tag.PASSWORD, start, start + len(value)
