"""The guards of our fixes: a function or a field of vLLM's that moved is named at the start."""

from dataclasses import dataclass, field
from typing import ClassVar

import msgspec
import pytest
from lorecall.server.engine.common.plugin import PatchPointError, require, require_fields
from pydantic import BaseModel


@dataclass
class Data:
    """With a default that the class does not hold, as in vLLM's statistics."""

    plain: int
    made: dict[str, int] = field(default_factory=dict)


class Struct(msgspec.Struct):
    """As vLLM's LoRARequest."""

    name: str
    slot: int = 0


class Model(BaseModel):
    """As its protocols."""

    told: str


class Manager:
    """As its managers: some attributes come with a method after the constructor."""

    shared: ClassVar[int] = 1

    def __init__(self) -> None:
        self.slots = [self.read_only]

    @property
    def read_only(self) -> int:
        """A property."""
        return 1

    def load(self, name: str, *, again: bool) -> None:
        """Load something."""
        self.loaded = (name, again)


class Child(Manager):
    """Has what its parent sets."""


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (Data, ("plain", "made")),
        (Struct, ("name", "slot")),
        (Model, ("told",)),
        (Child, ("shared", "slots", "read_only", "loaded", "load")),
    ],
)
def test_fields_are_found_wherever_a_class_has_them(owner: type, names: tuple[str, ...]) -> None:
    """Of dataclasses, structs and models, and what any method of a class or its parents sets."""
    require_fields(owner, *names)
    with pytest.raises(PatchPointError, match=rf"{owner.__qualname__}\.gone does not exist in this vLLM"):
        require_fields(owner, *names, "gone")


def test_a_signature_may_only_grow_at_its_end() -> None:
    """The function comes back if its parameters begin with those expected; else both are in the message."""
    assert require(Manager, "load", ("self", "name")) is Manager.load
    with pytest.raises(PatchPointError, match=r"Manager\.load takes .* but \('self', 'again'\) was expected"):
        require(Manager, "load", ("self", "again"))
    with pytest.raises(PatchPointError, match=r"Manager\.save does not exist"):
        require(Manager, "save", ())
