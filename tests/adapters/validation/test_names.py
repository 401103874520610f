"""What an adapter may be called."""

import pytest
from lorecall.adapters.core.refusals import NameRefusedError, Reason
from lorecall.adapters.validation.names import check_name


@pytest.mark.parametrize("name", ["acme-support", "A", "7b.v1_2", "x" * 128])
def test_good_names(name: str) -> None:
    """ASCII letters, digits and inner punctuation make a name."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "-rf", ".hidden", "a b", "a\n", "x" * 129, "\u0430dmin", "\uff41",
     "a\u200bb", "a\x00b", "caf\u00e9", "a%2fb", "\u202egnp", "\u0663"],
)  # fmt: skip
def test_bad_names(name: str) -> None:
    """Paths, options, controls, look-alikes, wide and invisible characters do not make a name."""
    with pytest.raises(NameRefusedError) as caught:
        check_name(name)
    assert caught.value.reason is Reason.BAD_NAME
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


def test_reserved_names() -> None:
    """An adapter cannot take the base's name."""
    with pytest.raises(NameRefusedError, match="something else"):
        check_name("tiny-lm", reserved={"tiny-lm"})
