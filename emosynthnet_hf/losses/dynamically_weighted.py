"""Dynamically weighted balanced loss: rare classes weigh more, the more the worse predicted."""

from functools import lru_cache

import torch
from torch import Tensor

from ..margin_emosynthnet import own_and_squares


def dynamically_weighted(
    log_probs: Tensor, targets: Tensor, *, class_counts: list[int] | None = None
) -> Tensor:
    """Dynamically weighted balanced loss, DWB (eq. 2.9, 2.10; Fernando and Tsokos, 2021), (N,):

        sum_k (-w_k^(1 - p_k) t_k log p_k + p_k (1 - p_k)),  w_k = log(max_j n_j / n_k) + 1.

    As printed, eq. 2.9 leaves open whether its minus sign holds for `p (1 - p)`, and public code
    has both. Read with the bracket around both terms: so the loss is 0 at a perfect prediction, and
    uncertainty, the part of the Brier score that the term is, costs instead of paying. The paper's
    text was not at hand.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes.
        class_counts: n, the training pictures of each class; those of an empty one count as 1.
            None: classes of equal size.

    Raises:
        ValueError: a negative count, or another number of them than K.
    """
    if class_counts is None:
        weights = log_probs.new_ones(log_probs.shape[-1])
    else:
        weights = _weights(tuple(class_counts), log_probs.shape[-1]).to(log_probs)
    if targets.is_floating_point():
        probs = log_probs.exp()
        weighted = -(weights.pow(1 - probs) * targets * log_probs)
        return (weighted + probs * (1 - probs)).sum(dim=-1)  # eq. 2.9
    log_own, squares = own_and_squares(log_probs, targets)
    weighted = -weights[targets.squeeze(-1)].pow(1 - log_own.exp()) * log_own
    return weighted + 1 - squares  # eq. 2.9, where p sums to 1


@lru_cache(maxsize=8)  # of thousands of classes a list takes longer to read than to compute with
def _weights(class_counts: tuple[int, ...], classes: int) -> Tensor:
    counts = torch.tensor(class_counts, dtype=torch.float64)
    if len(class_counts) != classes or (counts < 0).any():
        raise ValueError(
            f"class_counts must be {classes} numbers of at least 0, one a class, "
            f"got {list(class_counts)}"
        )
    counts = counts.clamp_min(1)
    return torch.log(counts.max() / counts) + 1  # eq. 2.10


__all__ = ["dynamically_weighted"]
