"""Wang's symmetric cross-entropy, and Takeda's with a ratio of samples."""

import math

import torch
from torch import Tensor

from ..margin_emosynthnet import cross_entropy


def reverse_cross_entropy(log_probs: Tensor, targets: Tensor, log_zero: float) -> Tensor:
    """`-sum_k p_k max(log t_k, A)`, (N,), written so that classes with target 0 are not read; for
    (N, 1) int64 classes `-A (1 - p_y)`."""
    if not targets.is_floating_point():
        return -log_zero * (1 - log_probs.gather(-1, targets).squeeze(-1).exp())
    # sum p = 1, hence -A - sum_k p_k (max(log t_k, A) - A)
    above = targets.log().clamp_min(log_zero) - log_zero
    return -log_zero - (log_probs.exp() * above).sum(dim=-1)


def symmetric(
    log_probs: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Tensor:
    """Symmetric cross-entropy (Wang et al., 2019): `alpha CE(t, p) + beta CE(p, t)` with log 0
    taken as A, (N,). For one-hot targets the second is `-A (1 - p_y)`, an absolute error: robust to
    wrong labels. Not the thesis's SCE, which shares the acronym.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1.
        alpha, beta: at least 0; 0.1 and 1 are the paper's for CIFAR-10.
        log_zero: A, below 0; -4 in the paper.

    Raises:
        ValueError: a value out of range.
    """
    check_pair(alpha, beta, log_zero)
    return alpha * cross_entropy(log_probs, targets) + beta * reverse_cross_entropy(
        log_probs, targets, log_zero
    )


def sample_ratio(
    log_probs: Tensor,
    targets: Tensor,
    *,
    progress: float,
    noise_ratio: float = 0.2,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Tensor:
    """[`symmetric`] of the share lambda of the batch with the smallest loss (eq. 2.11; Takeda et
    al., 2020), (N,): `lambda = 1 - tau min(progress, 1)`.

    Eq. 2.11 is garbled ("correct epoch" for current epoch, a comma for the product); read as
    `1 - min(epoch / max_epoch * tau, tau)`, the form that Co-teaching (Han et al., 2018) has. The
    paper itself was not at hand. The others' losses are 0 and the kept ones are multiplied by N /
    kept, so that the mean over the batch is that over the kept.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1.
        progress: epoch / max_epoch, in [0, 1].
        noise_ratio: tau, the share of wrong labels, in [0, 1).
        alpha, beta, log_zero: as in [`symmetric`].

    Raises:
        ValueError: a value out of range.
    """
    if not 0 <= noise_ratio < 1:
        raise ValueError(f"noise_ratio must be in [0, 1), got {noise_ratio}")
    losses = symmetric(log_probs, targets, alpha=alpha, beta=beta, log_zero=log_zero)
    samples = losses.shape[0]
    ratio = 1 - min(progress * noise_ratio, noise_ratio)  # eq. 2.11
    kept = max(1, math.ceil(ratio * samples - 1e-9))  # 0.8 * 5 is 4, whatever its rounding
    smallest = losses.detach().topk(kept, largest=False).indices
    return losses * torch.zeros_like(losses).scatter(0, smallest, samples / kept)


def check_pair(alpha: float, beta: float, log_zero: float) -> None:
    """Raises ValueError unless alpha and beta are at least 0 and log_zero is below 0."""
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not -math.inf < log_zero < 0:
        raise ValueError(f"log_zero must be finite and below 0, got {log_zero}")


__all__ = ["check_pair", "reverse_cross_entropy", "sample_ratio", "symmetric"]
