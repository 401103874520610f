"""The update that a module's LoRA makes, in forms that change the base's weights, as one plain product B @ A."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorecall.adapters.validation.weight_checks import not_finite

if TYPE_CHECKING:
    import torch

_EXACT_SVD = 1024
_OVERSAMPLING = 16


@dataclass(frozen=True, slots=True)
class Update:
    """The LoRA of one module.

    Attributes:
        a: Shape (r, d_in).
        b: Shape (d_out, r).
        scaling: The factor on B @ A.
        magnitude: DoRA's, shape (d_out,); None for a plain LoRA.
        embedding: Whether the module is an embedding.
    """

    a: "torch.Tensor"
    b: "torch.Tensor"
    scaling: float
    magnitude: "torch.Tensor | None" = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        """The rank of the product."""
        return int(self.a.shape[0])


def less_initial(trained: Update, initial: Update) -> Update:
    """Return what PiSSA, OLoRA, CorDA or LoftQ is on the untouched base: s B A - s0 B0 A0, of both ranks.

    With DoRA on top the magnitudes stay: its directions are those of the untouched base with that update.
    They take s0 B0 A0 out of the base's weights before the training (PEFT's `subtract_mutated_init`).
    """
    import torch  # noqa: PLC0415  # seconds to import

    share = initial.scaling / trained.scaling
    before = initial.b.to(trained.b.dtype) * -share
    a = torch.cat([trained.a, initial.a.to(trained.a.dtype)], dim=0)
    b = torch.cat([trained.b, before], dim=1)
    return Update(a, b, trained.scaling, trained.magnitude, embedding=trained.embedding)


def without_magnitude(
    update: Update, magnitude: "torch.Tensor", weight: "torch.Tensor", rank: int
) -> tuple[Update, float, float]:
    """Return the best plain LoRA of a rank for a DoRA module.

    DoRA (arXiv 2402.09353) serves m * (W + s B A) / ||W + s B A||, the norm of each row; what is decomposed is
    that less W, by its truncated singular value decomposition.

    Args:
        update: Its A and B.
        magnitude: m, with d_out numbers.
        weight: W, shape (d_out, d_in).
        rank: The rank of the result.

    Returns:
        The LoRA with scaling 1, and the squared Frobenius norms of what it misses and of the whole change.

    Raises:
        WeightsRefusedError: The change has values that are no numbers, such as of a row of zeros.
    """
    import torch  # noqa: PLC0415

    before = weight.double()
    direction = before + update.scaling * (update.b.double() @ update.a.double())
    factor = magnitude.double().reshape(-1) / direction.norm(dim=1)
    change = factor[:, None] * direction - before
    if not change.isfinite().all():
        raise not_finite("the change of the weights")
    if min(change.shape) <= _EXACT_SVD:
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
    else:
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(change, q=min(rank + _OVERSAMPLING, *change.shape), niter=4)
        vh = v.T
    root = s[:rank].sqrt()
    a, b = root[:, None] * vh[:rank], u[:, :rank] * root
    kind = update.a.dtype
    found = Update(a.to(kind).contiguous(), b.to(kind).contiguous(), 1.0)
    missed = change - found.b.double() @ found.a.double()
    return found, float(missed.square().sum()), float(change.square().sum())
