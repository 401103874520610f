"""Choose the quantisation scheme that suits this machine."""

from dataclasses import dataclass

from lorecall.adapters.bases.quantize import INT4, INT8


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The hardware features that decide the scheme.

    Attributes:
        gpu: A CUDA device is present.
        avx512: The CPU has AVX-512 (F, BW, VL, DQ): vLLM loads its AVX-512 library, which has an INT4 kernel.
        vnni: The CPU multiplies int8 in one instruction (AVX512-VNNI).
    """

    gpu: bool = False
    avx512: bool = False
    vnni: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A scheme, the reason for it, and the dtype of the unquantised parts."""

    scheme: str
    reason: str
    dtype: str


def detect_capabilities() -> Capabilities:
    """Return the features of this machine that PyTorch detects."""
    import torch  # noqa: PLC0415

    cpu = torch.cpu.get_capabilities()
    return Capabilities(
        gpu=torch.cuda.is_available(),
        avx512=all(cpu.get(f"avx512_{part}", False) for part in ("f", "bw", "vl", "dq")),
        vnni=bool(cpu.get("avx512_vnni", False)),
    )


def choose_scheme(machine: Capabilities, asked: str | None = None) -> Choice:
    """Return the scheme for a machine; `asked` (a member of `SCHEMES`) overrides the choice.

    On CPUs INT8 is the default: of all schemes measured with vLLM 0.32 on AVX2 and on AVX-512 it was the fastest,
    in prefill and in decode (docs/engine.md); the INT4 kernel is for AVX-512 and bfloat16 only.

    Args:
        machine: The machine's features.
        asked: The scheme that the user asked for; None to choose one.
    """
    if machine.gpu:
        reason = "a GPU: 4-bit weights leave the most memory for adapters and caches"
        return Choice(asked or INT4, "asked for" if asked else reason, "bfloat16")
    if asked == INT4:
        reason = "asked for" if machine.avx512 else "asked for; this CPU cannot run it: it lacks AVX-512"
        return Choice(INT4, reason, "bfloat16")
    if asked is not None:
        return Choice(asked, "asked for", "float32")
    if machine.vnni:
        return Choice(INT8, "a CPU with AVX512-VNNI: int8 products are the fastest it has", "float32")
    return Choice(INT8, "a CPU without VNNI: int8 products of our own are faster than float32", "float32")
