"""SM-Softmax: the target's logit less a constant."""

import torch.nn.functional as F
from torch import Tensor

from ..margin_emosynthnet import lower_target


def soft_margin(logits: Tensor, targets: Tensor, *, margin: float = 0.5) -> Tensor:
    """Soft-margin softmax (eq. 2.20, 2.21; Liang et al., 2017): `z_y - m` against the other logits.

    Args:
        logits: (N, K) float, of any classifier.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes. A soft target lowers
            each logit by its share.
        margin: m, at least 0; 0 is plain softmax.

    Returns:
        (N, K) log-probabilities.

    Raises:
        ValueError: a margin below 0.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, got {margin}")
    lowered = lower_target(logits, targets, logits.new_full((1, 1), margin))
    return F.log_softmax(lowered, dim=-1)  # eq. 2.20


__all__ = ["soft_margin"]
