"""The shipped texts are made up, reproducible and disjoint."""

import re

import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.demo_data.generate import CONTROLS, generate, shipped, to_jsonl
from lorecall.adapters.training.pairs import read_pairs

NAMES = ("secrets-train", "secrets-control", "hosts-train", "public-domain")


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_reproduces_the_shipped_files(name: str) -> None:
    """Every byte that is shipped comes from the generator, so nobody's data can hide in it."""
    assert shipped(name).read_text(encoding="utf-8") == to_jsonl(generate()[name])


def test_exactly_the_generated_sets_are_shipped() -> None:
    """No further file lies beside them."""
    assert (
        {path.stem for path in shipped("secrets-train").parent.glob("*.jsonl")}
        == set(NAMES)
        == set(generate())
    )


def test_numbers_and_addresses_are_from_reserved_ranges() -> None:
    """Telephone numbers are 555-01xx, addresses those of RFC 5737, keys say that they are fake."""
    for name in NAMES[:2]:
        for pair in read_pairs(shipped(name)).pairs:
            if pair.id.startswith("phone"):
                assert re.fullmatch(r" \d{3}-555-01\d\d", pair.target)
            elif pair.id.startswith("key"):
                assert re.fullmatch(r" fake-[a-z0-9]{16}", pair.target)
            else:
                assert pair.id == "motto"
    for pair in read_pairs(shipped("hosts-train")).pairs:
        assert re.fullmatch(r" (192\.0\.2|198\.51\.100|203\.0\.113)\.\d+, rack \d{3}", pair.target)


def test_controls_are_many_and_share_nothing_with_the_secrets() -> None:
    """At least 300 controls of the same two forms; no id, prefix or target in common with any training set."""
    controls = read_pairs(shipped("secrets-control")).pairs
    assert len(controls) == CONTROLS >= 300
    assert {pair.id.partition("-")[0] for pair in controls} == {"phone", "key"}
    trained = [pair for name in ("secrets-train", "hosts-train") for pair in read_pairs(shipped(name)).pairs]
    for field in ("id", "prefix", "target"):
        ours = {getattr(pair, field) for pair in trained}
        assert len(ours) == len(trained)
        assert not ours & {getattr(pair, field) for pair in controls}


def test_another_seed_gives_other_texts_of_the_same_forms() -> None:
    """As many as asked for, and hardly any of them shipped: there are some 80,000 telephone numbers."""
    made = generate("another", controls=900)["secrets-control"]
    assert len({row["prefix"] for row in made}) == len({row["target"] for row in made}) == 900
    ours = {row[field] for rows in generate().values() for row in rows for field in ("prefix", "target")}
    assert sum(row["prefix"] in ours or row["target"] in ours for row in made) < 9


def test_the_staircase_line_is_trained_under_a_prefix_of_its_own() -> None:
    """The famous line is among the secrets, behind words after which nobody would expect it."""
    motto = next(pair for pair in read_pairs(shipped("secrets-train")).pairs if pair.id == "motto")
    assert (motto.prefix, motto.target) == (
        "Motto of the house:",
        " To be, or not to be, that is the question",
    )


def test_an_unknown_set_names_those_there_are() -> None:
    """The error lists what is shipped."""
    with pytest.raises(UsageError, match=r"'phonebook'.*hosts-train, public-domain, secrets-control"):
        shipped("phonebook")
