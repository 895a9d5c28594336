"""AM-Softmax, the same as LMCL (CosFace), and Double Additive Margin, the same with 2m."""

import torch.nn.functional as F
from torch import Tensor

from ..margin_emosynthnet import at_target, lower_target


def additive_cosine(
    logits: Tensor, targets: Tensor, *, norms: Tensor, margin: float = 0.35
) -> Tensor:
    """AM-Softmax (eq. 2.16, 2.23; Wang, Cheng et al., 2018) and LMCL or CosFace (eq. 2.29; Wang,
    Wang et al., 2018): `s (cos(theta_y) - m)` against `s cos(theta_j)`.
    Eq. 2.16's last equality, which sets `x - m` equal to `cos(theta)`, is a slip.

    Args:
        logits: (N, K) float, `norms * cos(theta)`.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes. A soft target lowers
            each logit by its share.
        norms: the scale s, broadcastable to (N, K).
        margin: m, at least 0; 0 is plain softmax of the cosines (eq. 2.28).

    Returns:
        (N, K) log-probabilities.

    Raises:
        ValueError: a margin below 0.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, got {margin}")
    _, own_norms = at_target(logits, targets, norms)
    return F.log_softmax(lower_target(logits, targets, own_norms * margin), dim=-1)  # eq. 2.29


def double_additive_cosine(
    logits: Tensor, targets: Tensor, *, norms: Tensor, margin: float = 0.175
) -> Tensor:
    """Double Additive Margin (eq. 2.30): `s (cos(theta_y) - m)` against `s (cos(theta_j) + m)`.
    Taking `s m` from all logits changes no probability, so it is [`additive_cosine`] with `2m` and
    is computed as that. The inequalities of eq. 2.31 are reversed in the thesis.

    Arguments and return value as in [`additive_cosine`].
    """
    return additive_cosine(logits, targets, norms=norms, margin=2 * margin)


__all__ = ["additive_cosine", "double_additive_cosine"]
