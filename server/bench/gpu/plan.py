"""The stages of `lorecall bench-gpu`, in their order, and what is asked of their numbers."""

import sys
from pathlib import Path

from lorecall.server.bench.gpu.stages import Stage

SCHEMES = ("none", "fp8", "int8", "int4")

SECONDS = 540.0
"""Time for all stages together."""

GOALS = (
    "Goals: no request answers otherwise in a mixed batch than alone, but for ε; no certified snippet that is "
    "not decoded; adapters at 0.90 of the base's decode or better, scoring at 0.90 of its limit, our server at "
    "0.98 of stock `vllm serve`."
)


def gpu_stages(work: Path) -> list[Stage]:
    """Return the stages; bases are prepared into `work`, from the default base."""
    lorecall = str(Path(sys.executable).with_name("lorecall"))
    bases = {scheme: str(work / "bases" / scheme) for scheme in SCHEMES}
    prepare = [
        (lorecall, "base", "prepare", "--quantize", scheme, "--out", folder)
        for scheme, folder in bases.items()
    ]
    flags = [part for scheme, folder in bases.items() for part in ("--base", f"{scheme}={folder}")]
    check = (sys.executable, "-m", "lorecall.server.bench.gpu.checks")
    on_none = ("--base", bases["none"], "--out", "{out}")

    def bench(section: str, rounds: int, *named: str) -> tuple[tuple[str, ...], ...]:
        return ((lorecall, "bench", "--only", section, "--rounds", str(rounds), "--out", "{out}", *named),)

    main = ("--base", f"none={bases['none']}")
    return [
        Stage("prepare", "bases in every scheme", 100, tuple(prepare)),
        Stage("parity", "each scheme against transformers and PEFT", 100, bench("parity", 1, *flags)),
        Stage(
            "isolation", "a mixed batch answers as its requests alone", 60, ((*check, "isolation", *on_none),)
        ),
        Stage("decoding", "what scoring certifies is decoded", 60, ((*check, "decoding", *on_none),)),
        Stage("lora", "adapters against the base", 90, bench("lora", 2, *main)),
        Stage("scoring", "scoring against its limit", 65, bench("scoring", 2, *main)),
        Stage("overhead", "our server against stock", 65, bench("overhead", 2, *main)),
    ]
