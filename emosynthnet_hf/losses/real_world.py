"""Real-World-Weight cross-entropy: each kind of mistake at its cost."""

import torch
from torch import Tensor


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
        targets: (N, K) float, rows sum to 1.
        false_negative_costs: fn, of missing class k: one number, or K.
        false_positive_costs: fp, of taking class k for class j: one number, or K rows of K, whose
            diagonal is not read.

    Raises:
        ValueError: a negative cost, or another number of them.
    """
    classes = log_probs.shape[-1]
    missed = _costs("false_negative_costs", log_probs, false_negative_costs, (classes,))
    taken = _costs("false_positive_costs", log_probs, false_positive_costs, (classes, classes))
    tiny = torch.finfo(log_probs.dtype).tiny
    # log(1 - p), from the other classes' sum where p is near 1 would cost a second pass: p that
    # rounds to 1 is bounded instead.
    log_not = torch.log((-torch.expm1(log_probs)).clamp_min(tiny))
    if taken.ndim:
        taken = taken * (1 - torch.eye(classes, dtype=taken.dtype, device=taken.device))
        positives = (targets @ taken) * log_not
    else:
        positives = taken * (1 - targets) * log_not  # one cost: no K x K matrix
    return -(targets * missed * log_probs + positives).sum(dim=-1)  # eq. 2.6


def _costs(
    name: str, like: Tensor, costs: float | list[float] | list[list[float]], shape: tuple[int, ...]
) -> Tensor:
    values = like.new_tensor(costs)
    if values.ndim and tuple(values.shape) != shape:
        raise ValueError(
            f"{name} must be one number or have shape {shape}, got shape {tuple(values.shape)}"
        )
    flat = [costs] if isinstance(costs, (int, float)) else torch.tensor(costs).flatten().tolist()
    if not all(cost >= 0 for cost in flat):
        raise ValueError(f"{name} must be at least 0, got {costs}")
    return values


__all__ = ["real_world"]
