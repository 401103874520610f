"""Make a LoRA of each expert out of one on the tensor of all experts (PEFT's `target_parameters`)."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from lorecall.adapters.convert.lora_names import module_of_base
from lorecall.adapters.convert.updates import Update
from lorecall.adapters.core.refusals import (
    BaseMismatchError,
    ConfigRefusedError,
    Reason,
    WeightsRefusedError,
    safe_repr,
)
from lorecall.adapters.peft_format.config import wrong_setting
from lorecall.adapters.peft_format.files import WEIGHTS_FILE
from lorecall.adapters.validation.base_facts import NO_BASE, BaseFacts

FUSED = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}
"""The tensors of all experts, in the order in which PEFT wraps them, and what a base has of each expert."""
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.[^.]+")


def twice(name: str) -> WeightsRefusedError:
    """Return the refusal of a file that has one module of the base under two names."""
    return WeightsRefusedError(
        Reason.DUPLICATE_KEY,
        f"two modules of the file are {safe_repr(name)} in the base",
        hint="save the adapter again",
        param=WEIGHTS_FILE,
    )


class Parameters:
    """The parameters that a configuration names, and the modules of the base that they stand for.

    PEFT puts one layer on a module for each of its parameters; the first is the innermost, `base_layer`.

    Args:
        config: The adapter's configuration.
        modules: The modules of its file.
        base: The base; None where it is not at hand.

    Raises:
        ConfigRefusedError: There are parameters, and no base.
    """

    def __init__(self, config: Mapping[str, Any], modules: Collection[str], base: BaseFacts | None) -> None:
        named = config.get("target_parameters") or []
        if not isinstance(named, list) or not all(isinstance(one, str) and one for one in named):
            raise wrong_setting(
                Reason.BAD_SETTING, "target_parameters", named, "a list of names of parameters"
            )
        if named and base is None:
            raise ConfigRefusedError(
                Reason.UNSUPPORTED_FEATURE,
                "the adapter adapts parameters (target_parameters), whose modules are the base's to say",
                hint="name the prepared base with --base DIR",
                param="target_parameters",
            )
        self._named = named
        self._modules = frozenset(modules)
        self._base = base or NO_BASE
        self._experts: dict[str, int] = {}
        for match in filter(None, map(_EXPERT.fullmatch, self._base.modules)):
            self._experts[match[1]] = max(self._experts.get(match[1], 0), int(match[2]) + 1)

    def key(self, module: str) -> str:
        """Return the name of the parameter that a module of the file adapts; "" where it is no parameter's.

        Raises:
            WeightsRefusedError: The file has more or fewer layers on that module than the configuration names.
        """
        own = re.sub(r"(?:\.base_layer)+$", "", module)
        named = [f"{own}.{one}" for one in (*FUSED, "weight")]
        named = [one for one in named if any(f".{one}".endswith(f".{target}") for target in self._named)]
        if own.rpartition(".")[2] == "experts":
            named = [one for one in named if not one.endswith(".weight")]
        layers = 0
        while own + layers * ".base_layer" in self._modules:
            layers += 1
        if named and layers != len(named):
            raise WeightsRefusedError(
                Reason.INCOMPLETE,
                f"{safe_repr(own)} has weights for {layers} of its {len(named)} parameters",
                hint="the file is not whole: save the adapter again",
                param=WEIGHTS_FILE,
            )
        return named[layers - 1 - module.removeprefix(own).count(".base_layer")] if named else ""

    def experts(self, key: str) -> int:
        """Return how many matrices a parameter is: the number of experts, or 1 for one of a single module.

        Raises:
            BaseMismatchError: The base has no experts one by one there.
        """
        module, _, parameter = key.rpartition(".")
        if parameter not in FUSED:  # also ""
            return 1
        number = self._experts.get(module_of_base(module, self._experts))
        if number is None:
            raise BaseMismatchError(
                Reason.MODULE_NOT_SERVED,
                f"the base keeps no experts one by one under {safe_repr(module)}, so no LoRA can be made of each",
                hint="gpt-oss, Llama 4 and Granite have them in one tensor: train target_modules alone",
                param="target_parameters",
            )
        return number

    def of_modules(self, updates: Mapping[str, Update]) -> dict[str, Update]:
        """Return the updates of parameters as those of the base's modules.

        Where one projection of the experts is adapted all are, the others by zeros, with one rank and one scale:
        so vLLM packs them.

        Args:
            updates: A is (experts · r, d_in) and B (d_out, r · experts), by `key`.

        Raises:
            BaseMismatchError: The base has no such module, or of other widths.
        """
        placed: dict[tuple[str, str], Update] = {}
        for key, update in updates.items():
            module, _, parameter = key.rpartition(".")
            place = (
                module_of_base(module, self._experts if parameter in FUSED else self._base.modules),
                parameter,
            )
            if place in placed:
                raise twice(place[0])
            placed[place] = update
        fused = {place: update for place, update in placed.items() if place[1] in FUSED}
        found = {name: update for (name, parameter), update in placed.items() if parameter not in FUSED}
        for name, update in found.items():
            self._check_widths(update, name, [name])
        if fused:
            some = next(iter(fused.values()))
            rank = max(update.rank // self._experts[mixture] for (mixture, _), update in fused.items())
        for mixture in dict.fromkeys(mixture for mixture, _ in fused):
            for parameter in FUSED:
                update = fused.get((mixture, parameter)) or self._nothing(mixture, parameter, some)
                found |= self._each(mixture, parameter, update, rank, some.scaling)
        return found

    def _nothing(self, mixture: str, parameter: str, some: Update) -> Update:
        """Return the update of a parameter that is not adapted, of rank 1 and the kind of another's."""
        number, (d_in, d_out) = self._experts[mixture], self._widths(self._projections(mixture, parameter))
        return Update(some.a.new_zeros(number, d_in), some.b.new_zeros(d_out, number), some.scaling)

    def _each(
        self, mixture: str, parameter: str, update: Update, rank: int, scaling: float
    ) -> dict[str, Update]:
        """Return what one parameter's update is to each expert's projections, with a rank and a scale."""
        from torch.nn.functional import pad  # noqa: PLC0415  # seconds to import

        first, number = self._projections(mixture, parameter), self._experts[mixture]
        self._check_widths(update, f"{mixture}.{parameter}", first)
        a = update.a.reshape(number, -1, update.a.shape[1])
        b = update.b.reshape(update.b.shape[0], -1, number).permute(2, 0, 1)
        b = b if update.scaling == scaling else b * (update.scaling / scaling)
        a, b = pad(a, (0, 0, 0, rank - a.shape[1])), pad(b, (0, rank - b.shape[2]))
        parts = b.split([self._base.modules[name][1] for name in first], dim=1)
        return {
            f"{mixture}.{expert}.{name.rpartition('.')[2]}": Update(a[expert], part[expert], scaling)
            for name, part in zip(first, parts, strict=True)
            for expert in range(number)
        }

    def _projections(self, mixture: str, parameter: str) -> list[str]:
        """Return the modules of the first expert that a parameter stands for."""
        forms = [[f"{mixture}.0.{name}" for name in form] for form in FUSED[parameter]]
        return next((form for form in forms if form[0] in self._base.modules), forms[0])

    def _widths(self, modules: list[str]) -> tuple[int, int]:
        """Return (d_in, d_out) of modules of one input, one under the other."""
        shapes = [self._base.modules.get(name, (0, 0)) for name in modules]
        return shapes[0][0], sum(d_out for _, d_out in shapes)

    def _check_widths(self, update: Update, key: str, modules: list[str]) -> None:
        """Check that a parameter's matrices are as wide as the modules that it stands for."""
        right = self._widths(modules)
        if (update.a.shape[1], update.b.shape[0]) != right or modules[0] in self._base.embeddings:
            raise BaseMismatchError(
                Reason.BAD_SHAPE,
                f"{safe_repr(key)} has A {list(update.a.shape)} and B {list(update.b.shape)}, and in the base"
                f" d_in {right[0]} and d_out {right[1]}",
                hint="an adapter of another base, or one that an older PEFT stored the other way round",
                param=WEIGHTS_FILE,
            )
