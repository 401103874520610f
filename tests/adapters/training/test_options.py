"""Options that no base could take are refused before anything is computed."""

import pytest
from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.adapters.training.options import TrainingOptions, check_rank, parse_layers, parse_modules

PRESENT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("", (8,)),
        ("all", tuple(range(10))),
        ("3", (3,)),
        ("7,3", (3, 7)),
        ("2-4, 9", (2, 3, 4, 9)),
        ("0-0", (0,)),
    ],
)
def test_layers_are_indices_and_ranges(text: str, layers: tuple[int, ...]) -> None:
    """Sorted and each once; nothing given is the last but one."""
    assert parse_layers(text, 10) == layers


def test_a_base_of_one_layer_has_a_default_too() -> None:
    """There the default is its only layer."""
    assert parse_layers("", 1) == (0,)


@pytest.mark.parametrize("text", ["10", "8-10", "4-2", "-1", "a", "1,,2", "1;2"])
def test_other_layers_are_refused(text: str) -> None:
    """Beyond the base, backwards or no numbers."""
    with pytest.raises(UsageError) as caught:
        parse_layers(text, 10)
    assert caught.value.param == "layers"


def test_modules_are_groups_or_names() -> None:
    """Groups have their usual members; names are taken in order, once."""
    assert parse_modules("mlp", PRESENT) == ("gate_proj", "up_proj", "down_proj")
    assert parse_modules("attention", PRESENT) == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert set(parse_modules("all", PRESENT)) == set(PRESENT)
    assert parse_modules("up_proj, q_proj,up_proj", PRESENT) == ("up_proj", "q_proj")


@pytest.mark.parametrize("text", ["lm_head", "up_proj,embed_tokens", "", "mlp,q_proj"])
def test_other_modules_are_refused(text: str) -> None:
    """lm_head and embed_tokens are not in the layers: what they change, prompt scores would not show."""
    with pytest.raises(UsageError, match="no module") as caught:
        parse_modules(text, PRESENT)
    assert "down_proj" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", 0), ("rank", -4), ("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("lr", float("nan")), ("lr", 1.5),
     ("stop_over", 0.0), ("stop_over", 1.1), ("dropout", -0.1), ("dropout", 1.0), ("method", "dpo")],
)  # fmt: skip
def test_values_out_of_range_are_refused(field: str, value: object) -> None:
    """The error names the option and exits with 2."""
    options: dict[str, object] = {"rank": 8, field: value}
    with pytest.raises(UsageError) as caught:
        TrainingOptions(**options)  # type: ignore[arg-type]
    assert (caught.value.param, caught.value.exit_code) == (field, 2)


def test_a_rank_over_the_smallest_width_is_refused() -> None:
    """B·A of a 64-wide module has rank 64 at most."""
    check_rank(64, [64, 128])
    with pytest.raises(AdapterError, match=r"rank 65.*1 to 64"):
        check_rank(65, [128, 64])
