"""The scheme follows from what the machine has, and a person's wish goes before it."""

import pytest
from lorecall.adapters.bases.quantize import FP8, INT4, INT8, NONE, SCHEMES
from lorecall.adapters.bases.scheme_choice import Capabilities, choose_scheme, detect_capabilities

AVX2 = Capabilities()
AVX512 = Capabilities(avx512=True, vnni=True)
GPU = Capabilities(gpu=True, avx512=True)


@pytest.mark.parametrize(
    ("compute", "memory", "weights", "scheme"),
    [
        (90, 80e9, 16e9, FP8),
        (89, 24e9, 16e9, FP8),
        (89, 12e9, 16e9, INT4),
        (80, 80e9, 16e9, INT8),
        (86, 24e9, 26e9, INT4),
        (75, 16e9, 3e9, INT4),
        (0, 0, 16e9, INT4),
    ],
)
def test_a_gpu_takes_what_it_multiplies_and_what_fits(
    compute: int, memory: float, weights: float, scheme: str
) -> None:
    """Everything but the weights is bfloat16; the reason says which of the two decided."""
    machine = Capabilities(gpu=True, compute=compute, memory=int(memory))
    choice = choose_scheme(machine, None, int(weights))
    assert (choice.scheme, choice.dtype) == (scheme, "bfloat16")
    assert ("half" in choice.reason) is (weights > memory > 0)


@pytest.mark.parametrize("machine", [AVX2, AVX512])
def test_a_cpu_takes_int8_in_float32(machine: Capabilities) -> None:
    """On a CPU the default is the scheme that was the fastest of all measured, and it says why."""
    choice = choose_scheme(machine)
    assert (choice.scheme, choice.dtype) == (INT8, "float32")
    assert choice.reason != choose_scheme(GPU).reason


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("machine", [AVX512, GPU])
def test_a_wish_is_followed(machine: Capabilities, scheme: str) -> None:
    """What was asked for is what is made, wherever the kernels for it exist."""
    assert choose_scheme(machine, scheme).scheme == scheme


def test_int4_on_a_cpu_is_kept_in_bfloat16() -> None:
    """The CPU's INT4 kernel takes no float32 activations."""
    assert choose_scheme(AVX512, INT4).dtype == "bfloat16"


def test_unquantised_weights_stay_float32_on_a_cpu() -> None:
    """Without a scheme a CPU serves float32."""
    assert choose_scheme(AVX2, NONE).dtype == "float32"


def test_fp8_is_made_on_a_cpu_for_another_machine() -> None:
    """The reason says that it cannot run here."""
    assert "cannot" in choose_scheme(AVX512, FP8).reason


def test_int4_without_a_kernel_warns_in_its_reason() -> None:
    """INT4 on a CPU without AVX-512 can be made for another machine; the reason says that it cannot run here."""
    assert "cannot" in choose_scheme(AVX2, INT4).reason


def test_this_machine_is_described() -> None:
    """Detection gives plain booleans that agree with each other: VNNI and BF16 are extensions of AVX-512."""
    machine = detect_capabilities()
    assert machine.avx512 or not machine.vnni
