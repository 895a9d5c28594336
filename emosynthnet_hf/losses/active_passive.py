"""Active-passive loss: normalised cross-entropy and reverse cross-entropy."""

from torch import Tensor

from ..margin_emosynthnet import cross_entropy
from .symmetric import check_pair, reverse_cross_entropy


def active_passive(
    log_probs: Tensor,
    targets: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    log_zero: float = -9.210340371976182,
) -> Tensor:
    """Active-passive loss (eq. 2.8; Ma et al., 2020): `alpha NCE + beta RCE`, (N,). The thesis
    names no pair; this is the one of the authors' own example.

        NCE = sum_k t_k log p_k / sum_k log p_k  (active),
        RCE = -sum_k p_k log t_k, log 0 taken as A  (passive).

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes.
        alpha, beta: at least 0; 1 and 1 are the paper's for CIFAR-10.
        log_zero: A, below 0; the authors' code has log 1e-4.

    Raises:
        ValueError: a value out of range.
    """
    check_pair(alpha, beta, log_zero)
    active = -cross_entropy(log_probs, targets) / log_probs.sum(dim=-1)
    passive = reverse_cross_entropy(log_probs, targets, log_zero)
    return alpha * active + beta * passive  # eq. 2.8


__all__ = ["active_passive"]
