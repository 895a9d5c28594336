"""AAM-Softmax (ArcFace): the target's angle plus a constant."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..margin_emosynthnet import at_target, lower_target


def additive_angle(
    logits: Tensor, targets: Tensor, *, norms: Tensor, margin: float = 0.5
) -> Tensor:
    """AAM-Softmax or ArcFace (eq. 2.24 to 2.26; Deng et al., 2019): `s cos(theta_y + m)` against
    `s cos(theta_j)`.

    Beyond theta = pi - m, where cos(theta + m) would rise again, `cos(theta) - m sin(m)`, as in the
    authors' code: below the cosine at every angle, with a jump at pi - m.

    Args:
        logits: (N, K) float, `norms * cos(theta)`.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes. A soft target lowers
            each logit by its share.
        norms: the scale s, broadcastable to (N, K).
        margin: m in radians, in [0, pi); 0 is plain softmax of the cosines (eq. 2.28).

    Returns:
        (N, K) log-probabilities.

    Raises:
        ValueError: a margin out of range.
    """
    if not 0 <= margin < math.pi:
        raise ValueError(f"margin must be in [0, pi) radians, got {margin}")
    limits = torch.finfo(logits.dtype)
    own, own_norms = at_target(logits, targets, norms)
    cosines = (own / own_norms.clamp_min(limits.tiny)).clamp(-1, 1)
    # Bounded below, since the slope of the root at theta = 0 and pi is infinite.
    sines = (1 - cosines.square()).clamp_min(limits.eps**2).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)  # cos(theta + m), eq. 2.24
    shifted = torch.where(
        cosines >= -math.cos(margin), shifted, cosines - margin * math.sin(margin)
    )
    lowered = lower_target(logits, targets, own_norms * (cosines - shifted))
    return F.log_softmax(lowered, dim=-1)  # eq. 2.26


__all__ = ["additive_angle"]
