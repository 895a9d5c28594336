"""Focal loss: cross-entropy with easy samples weighted down."""

import torch
from torch import Tensor


def focal(log_probs: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss (eq. 4.2; Lin et al., 2017): `-sum_k t_k (1 - p_k)^gamma log p_k`, (N,). The
    paper's alpha is a class weight: see `class_weights`.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1.
        gamma: at least 0; 0 is cross-entropy.

    Raises:
        ValueError: gamma below 0.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    # 1 - p, bounded below: the slope of a power below 1 is infinite at 0.
    wrong = (-torch.expm1(log_probs)).clamp_min(torch.finfo(log_probs.dtype).tiny ** 0.5)
    return -(targets * wrong.pow(gamma) * log_probs).sum(dim=-1)  # eq. 4.2


__all__ = ["focal"]
