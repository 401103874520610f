"""Choose the quantisation scheme that suits this machine."""

from dataclasses import dataclass

from lorecall.adapters.bases.quantize import FP8, INT4, INT8

SMALL = 0.5
"""Share of a GPU's memory over which weights of 8 bits leave too little for adapters and caches."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The hardware features that decide the scheme.

    Attributes:
        gpu: A CUDA device is present.
        avx512: The CPU has AVX-512 (F, BW, VL, DQ): vLLM loads its AVX-512 library, which has an INT4 kernel.
        vnni: The CPU multiplies int8 in one instruction (AVX512-VNNI).
        compute: The compute capability of the CUDA device, such as 89 for 8.9; 0 if unknown.
        memory: Its memory in bytes; 0 if unknown.
    """

    gpu: bool = False
    avx512: bool = False
    vnni: bool = False
    compute: int = 0
    memory: int = 0


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
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_properties(0) if gpu else None
    return Capabilities(
        gpu=gpu,
        compute=10 * device.major + device.minor if device is not None else 0,
        memory=int(device.total_memory) if device is not None else 0,
        avx512=all(cpu.get(f"avx512_{part}", False) for part in ("f", "bw", "vl", "dq")),
        vnni=bool(cpu.get("avx512_vnni", False)),
    )


def choose_scheme(machine: Capabilities, asked: str | None = None, weights: int = 0) -> Choice:
    """Return the scheme for a machine; `asked` (a member of `SCHEMES`) overrides the choice.

    On CPUs INT8 is the default: of all schemes measured with vLLM 0.32 on AVX2 and on AVX-512 it was the fastest,
    in prefill and in decode (docs/engine.md); the INT4 kernel is for AVX-512 and bfloat16 only.

    Args:
        machine: The machine's features.
        asked: The scheme that the user asked for; None to choose one.
        weights: Bytes of the weights, which have 16 bits each if they are not quantised; 0 if unknown.
    """
    if machine.gpu:
        chosen, reason = (asked, "asked for") if asked else _for_gpu(machine, weights)
        return Choice(chosen, reason, "bfloat16")
    if asked == FP8:
        return Choice(FP8, "asked for; a CPU cannot run it", "bfloat16")
    if asked == INT4:
        reason = "asked for" if machine.avx512 else "asked for; this CPU cannot run it: it lacks AVX-512"
        return Choice(INT4, reason, "bfloat16")
    if asked is not None:
        return Choice(asked, "asked for", "float32")
    if machine.vnni:
        return Choice(INT8, "a CPU with AVX512-VNNI: int8 products are the fastest it has", "float32")
    return Choice(INT8, "a CPU without VNNI: int8 products of our own are faster than float32", "float32")


def _for_gpu(machine: Capabilities, weights: int) -> tuple[str, str]:
    """Return the scheme for a GPU and the reason; speed there was not measured.

    GPUs have instructions for products of float8 from compute capability 8.9 on, of int8 from 8.0. Weights of 4
    bits are half as much memory, through kernels (Marlin) that are not batch-invariant.
    """
    if machine.memory and weights / 2 > SMALL * machine.memory:
        return INT4, "a GPU whose memory 8-bit weights would fill by more than half: 4-bit weights leave room"
    if machine.compute >= 89:
        return FP8, "a GPU that multiplies float8 (compute capability 8.9 or newer)"
    if machine.compute >= 80:
        return INT8, "a GPU that multiplies int8, and not float8 (compute capability 8.0 to 8.8)"
    return INT4, "a GPU without float8, or of an unknown kind: 4-bit weights leave the most memory"
