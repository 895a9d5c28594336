"""Mixed cross-entropy: the model's own answer counts more as training goes on."""

import torch
from torch import Tensor

from ..margin_emosynthnet import cross_entropy, two_largest


def mixed(log_probs: Tensor, targets: Tensor, *, progress: float, maximum: float = 0.5) -> Tensor:
    """Mixed cross-entropy (eq. 2.7; Li and Lu, 2021), (N,):

        (1 - a) CE(t, p) - a log p_best,  a = maximum * progress,

    p_best the largest probability. Where it is the target's, that is cross-entropy. The thesis
    keeps the paper's sum over a sentence's words; a picture has one.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes.
        progress: i / total_iter of the schedule, in [0, 1].
        maximum: m, in [0, 1]; 0.5 in the paper.

    Raises:
        ValueError: maximum out of range.
    """
    if not 0 <= maximum <= 1:
        raise ValueError(f"maximum must be in [0, 1], got {maximum}")
    share = maximum * progress  # alpha_i
    best = two_largest(log_probs.detach())[2]
    if targets.is_floating_point():
        own = -cross_entropy(log_probs, targets)
        log_best = log_probs.gather(-1, best).squeeze(-1)
    else:  # one look-up for both: its gradient is a pass over (N, K)
        own, log_best = log_probs.gather(-1, torch.cat([targets, best], dim=-1)).unbind(dim=-1)
    return -(1 - share) * own - share * log_best  # eq. 2.7


__all__ = ["mixed"]
