"""Keep what the frozen modules before the first adapted one return: it is the same at every step.

In the lowest adapted layer that is the attention, and for an adapted `down_proj` also the gate, the up projection
and the base's own product. Such modules are found by running the layers once: their output needs no gradient.
"""

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import nn

LARGEST_BYTES = 1 << 30


class FrozenOutputs:
    """The outputs of modules, by module and input; what is over the number of bytes is computed again.

    Args:
        largest_bytes: How much to keep.
    """

    def __init__(self, largest_bytes: int = LARGEST_BYTES) -> None:
        self._room = largest_bytes
        # With the input beside it: as long as it is held, no other tensor has its id.
        self._kept: dict[tuple[int, int], tuple[torch.Tensor, Any]] = {}
        self._input: torch.Tensor

    @contextmanager
    def used(self, layers: "Sequence[nn.Module]", run: "Callable[[], object]") -> "Iterator[None]":
        """Return what is kept in place of running the frozen modules of `layers`; `run` runs the layers."""
        with wrapped(_frozen(layers, run), self._remembering):
            yield

    def at(self, hidden: "torch.Tensor") -> None:
        """Say which tensor the next run starts from."""
        self._input = hidden

    def _remembering(self, module: "nn.Module", forward: "Callable[..., Any]") -> "Callable[..., Any]":
        def remembered(*args: Any, **kwargs: Any) -> Any:
            place = id(module), id(self._input)
            if place not in self._kept:
                out = forward(*args, **kwargs)
                size = sum(one.nbytes for one in _tensors(out))
                if size > self._room:
                    return out
                self._room -= size
                self._kept[place] = self._input, out
            return self._kept[place][1]

        return remembered


@contextmanager
def wrapped(
    modules: "Sequence[nn.Module]", wrap: "Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]]"
) -> "Iterator[None]":
    """Put `wrap(module, forward)` in the place of each module's forward method."""
    own = [vars(module).get("forward") for module in modules]
    for module in modules:
        vars(module)["forward"] = wrap(module, module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward


def _tensors(out: Any) -> "list[torch.Tensor]":
    return [one for one in (out if isinstance(out, tuple) else (out,)) if one is not None]


def _frozen(layers: "Sequence[nn.Module]", run: "Callable[[], object]") -> "list[nn.Module]":
    """Return the outermost modules that have weights, ran once, and whose output needs no gradient."""
    calls: Counter[nn.Module] = Counter()
    frozen: set[nn.Module] = set()

    def note(module: "nn.Module", _args: Any, out: Any) -> None:
        calls[module] += 1
        if not any(one.requires_grad for one in _tensors(out)):
            frozen.add(module)

    modules = [one for layer in layers for one in layer.modules() if next(one.parameters(), None) is not None]
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    once = {module for module in frozen if calls[module] == 1}
    inner = {child for module in once for child in module.modules() if child is not module}
    return [module for module in modules if module in once - inner]
