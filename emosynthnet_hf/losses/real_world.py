"""Real-World-Weight cross-entropy: each kind of mistake at its cost."""

from typing import Any

import torch
from torch import Tensor

from ..margin_emosynthnet import power_of_e


def real_world(
    log_probs: Tensor,
    targets: Tensor,
    *,
    false_negative_costs: float | list[float] = 1.0,
    false_positive_costs: float | list[list[float]] = 1.0,
) -> Tensor:
    """Real-World-Weight cross-entropy (Ho and Wookey, 2020), (N,), in its form for several classes:

        -sum_k t_k (fn_k log p_k + sum over j != k of fp_kj log(1 - p_j)).

    Eq. 2.6 is the form for two classes; it also gives the index m to the last x alone. With false
    positives at cost 0 it is cross-entropy weighted by class.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes.
        false_negative_costs: fn, of missing class k: one number, or K.
        false_positive_costs: fp, of taking class k for class j: one number, or K rows of K, whose
            diagonal is not read.

    Raises:
        ValueError: a negative cost, or another number of them.
    """
    classes = log_probs.shape[-1]
    missed = _costs("false_negative_costs", log_probs, false_negative_costs, (classes,))
    taken = _costs("false_positive_costs", log_probs, false_positive_costs, (classes, classes))
    if not targets.is_floating_point():
        missed = missed[targets.squeeze(-1)] if missed.ndim else missed
        if taken.ndim:
            log_own = log_probs.gather(-1, targets).squeeze(-1)
            rows = taken[targets.squeeze(-1)].scatter(-1, targets, 0.0)
            positives = (rows * _log_not(log_probs)).sum(dim=-1)
        else:
            log_own, log_not_others = _OwnAndNotOthers.apply(log_probs, targets)
            positives = taken * log_not_others
        return -missed * log_own - positives  # eq. 2.6
    # One cost needs no K x K matrix.
    weights = targets @ taken.fill_diagonal_(0.0) if taken.ndim else taken * (1 - targets)
    return -(targets * missed * log_probs + weights * _log_not(log_probs)).sum(dim=-1)  # eq. 2.6


def _log_not(log_probs: Tensor) -> Tensor:
    """log(1 - p). From the other classes' sum where p is near 1 it would cost a second pass: p that
    rounds to 1 counts as the largest number below 1 instead."""
    return torch.log((-torch.expm1(log_probs)).clamp_min(_smallest(log_probs)))


def _smallest(like: Tensor) -> float:
    return torch.finfo(like.dtype).eps / 2


class _OwnAndNotOthers(torch.autograd.Function):
    """`log p_y` and the sum of `log(1 - p_j)` over j != y, (N,) each, of log-probabilities (N, K)
    and classes y (N, 1).

    The sum is the logarithm of one product, since a logarithm of each costs half of all that
    cross-entropy does. The product cannot underflow: p sums to 1, so one p at most is above 1/2 and
    the others' factors give 1/4 or more.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        p = power_of_e(log_probs).scatter_(-1, classes, 0.0)
        not_p = (1 - p).clamp_min_(_smallest(p))
        log_not_others = not_p.prod(dim=-1).log()
        ctx.save_for_backward(log_probs, classes, p.div_(not_p))
        return log_probs.gather(-1, classes).squeeze(-1), log_not_others

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        log_probs, classes, odds = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            p = log_probs.exp().scatter(-1, classes, 0.0)
            odds = p / (1 - p).clamp_min(_smallest(p))
        of_own, of_not = (gradient.unsqueeze(-1) for gradient in gradients)
        return (odds * -of_not).scatter_add_(-1, classes, of_own), None


def _costs(
    name: str, like: Tensor, costs: float | list[float] | list[list[float]], shape: tuple[int, ...]
) -> Tensor:
    values = like.new_tensor(costs)
    if values.ndim and tuple(values.shape) != shape:
        raise ValueError(
            f"{name} must be one number or have shape {shape}, got shape {tuple(values.shape)}"
        )
    if not (values >= 0).all():
        raise ValueError(f"{name} must be at least 0, got {costs}")
    return values


__all__ = ["real_world"]
