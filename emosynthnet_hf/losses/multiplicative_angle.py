"""L-Softmax and A-Softmax (SphereFace): the target's angle times an integer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..margin_emosynthnet import at_target, lower_target


def multiplicative_angle(
    logits: Tensor,
    targets: Tensor,
    *,
    norms: Tensor,
    progress: float,
    margin: int = 4,
    annealing_start: float = 1000.0,
    annealing_rate: float = 3360.0,
    annealing_end: float = 5.0,
) -> Tensor:
    """`|w||x| psi(theta_y)` in place of `|w||x| cos(theta_y)`, with the monotone extension

        psi(theta) = (-1)^k cos(m theta) - 2k  for theta in [k pi/m, (k + 1) pi/m].

    It is margin `l` (L-Softmax, eq. 2.18; Liu et al., 2016) on an `unbiased` classifier, whose
    norms are `|x||w_k|`, and margin `a` (A-Softmax, SphereFace, eq. 2.15; Liu et al., 2017) on one
    with `unit_weights`, whose norms are `|x|`. Trained with psi alone it hardly starts, so both
    papers begin near the cosine: `(lambda cos + psi) / (1 + lambda)`, `lambda = max(end, start /
    (1 + rate * progress))`. The defaults are those of SphereFace's published training: base 1000,
    gamma 0.12 over 28,000 iterations, lambda_min 5.

    The thesis's slips: eq. 2.15 names AM-Softmax's denominator as Z; the last w_1 of eq. 2.18
    should be w_2; eq. 2.22 as printed, cos(m theta) alone, is not monotone beyond pi/m; A-Softmax's
    rule compares cos(m theta_1) with cos(theta_2), not with cos(m theta_2).

    Args:
        logits: (N, K) float, `norms * cos(theta)`.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes. A soft target lowers
            each logit by its share.
        norms: what the cosines are multiplied by, broadcastable to (N, K).
        progress: share of the training that is done, in [0, 1].
        margin: m, an integer of at least 1; 1 is plain softmax.
        annealing_start, annealing_rate, annealing_end: of lambda, at least 0; all 0 is psi alone.

    Returns:
        (N, K) log-probabilities.

    Raises:
        ValueError: a value out of range.
    """
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 1:
        raise ValueError(f"margin must be an integer of at least 1, got {margin!r}")
    for name, value in (
        ("annealing_start", annealing_start),
        ("annealing_rate", annealing_rate),
        ("annealing_end", annealing_end),
    ):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    weight = max(annealing_end, annealing_start / (1 + annealing_rate * progress))  # lambda
    own, own_norms = at_target(logits, targets, norms)
    cosines = (own / own_norms.clamp_min(torch.finfo(logits.dtype).tiny)).clamp(-1, 1)
    less = own_norms * (cosines - psi(cosines, margin)) / (1 + weight)
    return F.log_softmax(lower_target(logits, targets, less), dim=-1)


def psi(cosines: Tensor, margin: int) -> Tensor:
    """(-1)^k cos(m theta) - 2k of cos(theta), element by element (Liu et al., 2016, eq. 6)."""
    # Chebyshev polynomial of degree m: no acos, whose slope at 0 and pi is infinite.
    previous, multiple = torch.ones_like(cosines), cosines
    for _ in range(margin - 1):
        previous, multiple = multiple, 2 * cosines * multiple - previous
    # k, the number of multiples of pi/m that theta has passed.
    k = torch.zeros_like(cosines)
    for passed in range(1, margin):
        k = k + (cosines <= math.cos(passed * math.pi / margin)).to(k)
    return (1 - 2 * (k % 2)) * multiple - 2 * k


__all__ = ["multiplicative_angle", "psi"]
