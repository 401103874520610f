"""The list of `GET /v1/models` as JSON: each card is made once, so that a list of thousands costs little."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import chain, islice
from random import getrandbits

from lorecall.server.engine.common.version_names import engine_name
from vllm.entrypoints.serve.engine.protocol import ModelCard, ModelPermission


class AdapterCards:
    """The cards of live adapters as JSON, in the order of their names; only those of new versions are made.

    Args:
        parent_of: Returns the base's name that an adapter's card shows.
    """

    def __init__(self, parent_of: Callable[[str], str]) -> None:
        self._parent_of = parent_of
        self._live: Mapping[str, str] = {}
        self._cards: dict[str, bytes] = {}

    def of(self, live: Mapping[str, str]) -> Mapping[str, bytes]:
        """Return name to JSON; `live` has the live version of each name, and is not changed afterwards."""
        if live is not self._live and live != self._live:
            self._cards = {
                name: self._cards[name] if self._live.get(name) == version else self._made(name, version)
                for name, version in sorted(live.items())
            }
        self._live = live
        return self._cards

    def _made(self, name: str, version: str) -> bytes:
        """Return one card as `adapter_card` and pydantic make it, at a fifth of their time.

        Names of adapters, versions and ids hold no character that JSON escapes: see `check_name`.
        """
        permission = f"modelperm-{getrandbits(128):032x}"
        values = {"name": name, "root": engine_name(name, version), "permission": permission}
        return (_pattern(self._parent_of(name), int(time.time())) % values).encode()


def adapter_card(name: str, version: str, parent: str) -> ModelCard:
    """Return the card of an adapter."""
    return ModelCard(id=name, root=engine_name(name, version), parent=parent, permission=[ModelPermission()])


@lru_cache(maxsize=64)
def _pattern(parent: str, created: int) -> str:
    """Return a card's JSON with places for the three values that differ."""
    permission = ModelPermission(id="%(permission)s", created=created)
    plain = parent.replace("%", "%%")
    card = ModelCard(id="%(name)s", root="%(root)s", parent=plain, permission=[permission], created=created)
    return card.model_dump_json()  # type: ignore[no-any-return]


def list_json(
    bases: Iterable[ModelCard],
    adapters: Mapping[str, bytes],
    visible: Callable[[str], bool],
    after: str | None,
    limit: int | None,
) -> bytes:
    """Return a list of models as OpenAI's API has it, the base's names first.

    Args:
        bases: The base's cards.
        adapters: The adapters' cards as JSON, in their order.
        visible: Whether the caller sees a name.
        after: The id of a model: those that follow it; None or "" for all.
        limit: How many at most; None for all. With either, the list says whether there are more.
    """
    shown = [(card.id, _json(card)) for card in bases if visible(card.id)]
    is_base = [name for name, _ in shown]
    if after in is_base:
        shown = shown[is_base.index(after) + 1 :]
    elif after:  # an adapter, which may be gone by now: the names follow in their order
        shown, adapters = [], {name: card for name, card in adapters.items() if name > after}
    names = filter(visible, adapters)
    following = chain((card for _, card in shown), (adapters[name] for name in names))
    cards = list(islice(following, limit))
    paged = b""
    if after is not None or limit is not None:
        paged = b',"has_more":' + (b"false" if next(following, None) is None else b"true")
    return b'{"object":"list","data":[' + b",".join(cards) + b"]" + paged + b"}"


def _json(card: ModelCard) -> bytes:
    return card.model_dump_json().encode()  # type: ignore[no-any-return]
