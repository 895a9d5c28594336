"""DAM-Softmax: AM-Softmax with a larger margin for samples that are farther from their class."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..margin_emosynthnet import at_target, lower_target


def dynamic_additive(
    logits: Tensor, targets: Tensor, *, norms: Tensor, margin: float = 0.2, control: float = 2.0
) -> Tensor:
    """DAM-Softmax (Zhou et al., Interspeech 2020): `s (cos(theta_y) - m_i)` against
    `s cos(theta_j)`, `m_i = m exp(1 - cos(theta_y)) / lambda`.

    The thesis (2.2.2.2) describes it without a formula. The form of m_i is the paper's as commonly
    cited: its text was not at hand; its values, m = 0.2, lambda = 2 and s = 30, are the defaults
    here. m_i is differentiated.

    Args:
        logits: (N, K) float, `norms * cos(theta)`.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes. A soft target lowers
            each logit by its share.
        norms: the scale s, broadcastable to (N, K).
        margin: m, at least 0; 0 is plain softmax of the cosines (eq. 2.28).
        control: lambda, above 0.

    Returns:
        (N, K) log-probabilities.

    Raises:
        ValueError: a value out of range.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, got {margin}")
    if not control > 0:
        raise ValueError(f"control must be above 0, got {control}")
    own, own_norms = at_target(logits, targets, norms)
    cosines = (own / own_norms.clamp_min(torch.finfo(logits.dtype).tiny)).clamp(-1, 1)
    margins = margin * torch.exp(1 - cosines) / control  # m_i
    return F.log_softmax(lower_target(logits, targets, own_norms * margins), dim=-1)


__all__ = ["dynamic_additive"]
