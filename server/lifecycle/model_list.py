"""The list of `GET /v1/models` as JSON: each card is made once, so that a list of thousands costs little."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice

from vllm.entrypoints.serve.engine.protocol import ModelCard


class AdapterCards:
    """The cards of live adapters as JSON, in the order of their names; only those of new versions are made.

    Args:
        make: Returns the card of an adapter, by its name and version.
    """

    def __init__(self, make: Callable[[str, str], ModelCard]) -> None:
        self._make = make
        self._live: dict[str, str] = {}
        self._cards: dict[str, bytes] = {}

    def of(self, live: Mapping[str, str]) -> Mapping[str, bytes]:
        """Return name to JSON; `live` has the live version of each name."""
        if live != self._live:
            self._cards = {
                name: self._cards[name]
                if self._live.get(name) == version
                else _json(self._make(name, version))
                for name, version in sorted(live.items())
            }
            self._live = dict(live)
        return self._cards


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
