"""Match module names as PEFT does: patterns of ranks and scales, and which modules a configuration names."""

import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import regex
from lorecall.adapters.core.refusals import ConfigRefusedError, Reason, safe_repr

T = TypeVar("T")
_SECONDS = 1.0
_LONGEST = 4096
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)
ALL_LINEAR = "all-linear"
_HEADS = ("lm_head", "embed_out", "output_layer")
_EMBEDDINGS = ("model.embed_tokens", "transformer.wte")


def matching(patterns: Mapping[str, T], module: str) -> Iterator[T]:
    """Yield the values of the patterns that match a module, in order; PEFT and vLLM take the first.

    A pattern is a regular expression that matches the end of a name from a dot on. Both compile it again for each
    module once there are more than some 500 (EVA writes one for every module).
    """
    return (value for pattern, value in patterns.items() if _matches(pattern, module))


def is_name(pattern: str) -> bool:
    """Return whether a pattern is a plain name of modules, in which only the dots stand for any character."""
    return _PLAIN.fullmatch(pattern) is not None


def _matches(pattern: str, module: str) -> bool:
    last = _last_part(pattern)
    if last is not None and not module.endswith(last):
        return False
    return _compiled(pattern).match(module) is not None


@lru_cache(maxsize=1 << 14)
def _last_part(pattern: str) -> str | None:
    """Return what a name that the pattern matches must end with; None if that is not plain."""
    return pattern.rpartition(".")[2] if is_name(pattern) else None


@lru_cache(maxsize=1 << 14)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


class Targets:
    """Which modules a configuration names: those that PEFT would adapt, if the base has them.

    PEFT evaluates expressions of the configuration; here they have one second of the processor in all, since they
    may be a stranger's.

    Args:
        config: The JSON object in `adapter_config.json`, after `read_settings`.

    Attributes:
        ties_head: Whether an adapter of the embeddings adapts a head that is tied to them as well.

    Raises:
        ConfigRefusedError: A setting has a wrong type, or an expression cannot be compiled.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._seconds = _SECONDS
        self.ties_head = bool(config.get("ensure_weight_tying"))
        self._targets = self._names(config, "target_modules")
        self._excluded = self._names(config, "exclude_modules")
        layers = config.get("layers_to_transform")
        listed = layers if isinstance(layers, list) else [] if layers is None else [layers]
        if len(listed) > 4096 or not all(type(one) is int for one in listed):
            raise _wrong("layers_to_transform", layers, "a list of numbers of layers")
        self._layers = frozenset(listed)
        parents = config.get("layers_pattern") or []
        parents = [parents] if isinstance(parents, str) else parents
        if not isinstance(parents, list) or len(parents) > 64 or not all(isinstance(p, str) for p in parents):
            raise _wrong("layers_pattern", parents, 'a list of names such as "layers"')
        self._parents = [_expression("layers_pattern", rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\.") for p in parents]

    def __contains__(self, module: str) -> bool:
        """Return whether PEFT would adapt a module of that name.

        Raises:
            ConfigRefusedError: The expressions take too long.
        """
        if self.ties_head and module.rpartition(".")[2] in _HEADS and any(one in self for one in _EMBEDDINGS):
            return True
        if self._is_in(self._excluded, module, exact=False):
            return False
        if isinstance(self._targets, frozenset):
            if module in self._targets:
                return True
            return self._is_in(self._targets, module, exact=False) and self._in_layers(module)
        return self._is_in(self._targets, module, exact=True)

    def _is_in(
        self, names: "frozenset[str] | regex.Pattern[str] | None", module: str, *, exact: bool
    ) -> bool:
        if names is None:
            return False
        if not isinstance(names, frozenset):
            if exact and names.pattern.casefold() == ALL_LINEAR:
                return module.rpartition(".")[2] not in _HEADS
            return self._match(names, module) is not None
        parts = module.split(".")
        return any(".".join(parts[start:]) in names for start in range(len(parts)))

    def _in_layers(self, module: str) -> bool:
        if not self._layers:
            return True
        if not self._parents:
            found = re.match(r".*?\.[^.]*\.(?P<idx>\d+)\.", module)
            return found is not None and int(found["idx"]) in self._layers
        matches = (self._match(parent, module, whole=False) for parent in self._parents)
        first = next((match for match in matches if match is not None), None)
        return first is not None and bool(first["idx"]) and int(first["idx"]) in self._layers

    def _match(
        self, expression: "regex.Pattern[str]", module: str, *, whole: bool = True
    ) -> "regex.Match[str] | None":
        before, match = time.thread_time(), expression.fullmatch if whole else expression.match
        try:
            found = match(
                module, timeout=max(self._seconds, 1e-3), concurrent=True
            )  # others may run meanwhile
        except TimeoutError as error:
            raise ConfigRefusedError(
                Reason.UNSAFE_PATTERN,
                f"the expression {safe_repr(expression.pattern)} takes too long to match module names",
                hint="list the names of the modules in target_modules",
                param="target_modules",
            ) from error
        self._seconds -= time.thread_time() - before
        return found

    @staticmethod
    def _names(config: Mapping[str, Any], key: str) -> "frozenset[str] | regex.Pattern[str] | None":
        value = config.get(key)
        if not value:
            return None
        if isinstance(value, str):
            return _expression(key, value)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _wrong(key, value, "a list of module names, or one expression")
        return frozenset(value)


def _expression(key: str, text: str) -> "regex.Pattern[str]":
    if len(text) > _LONGEST:
        raise _wrong(key, text, f"an expression of at most {_LONGEST} characters")
    try:
        return regex.compile(text)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise ConfigRefusedError(
            Reason.UNSAFE_PATTERN,
            f"{key} is {safe_repr(text)}, which is no regular expression",
            hint="list the names of the modules",
            param=key,
        ) from error


def _wrong(key: str, value: object, right: str) -> ConfigRefusedError:
    return ConfigRefusedError(
        Reason.BAD_SETTING, f"{key} is {safe_repr(value)}", hint=f"it must be {right}", param=key
    )
