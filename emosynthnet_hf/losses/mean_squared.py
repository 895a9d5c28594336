"""Mean squared error on probabilities."""

from torch import Tensor

from ..margin_emosynthnet import own_and_squares


def mean_squared(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of probabilities, `mean_k (t_k - p_k)^2` (section 2.2.1, Table 4.1), (N,): the
    Brier score divided by K.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes.
    """
    if not targets.is_floating_point():
        log_own, squares = own_and_squares(log_probs, targets)
        return (1 - 2 * log_own.exp() + squares) / log_probs.shape[-1]
    return (targets - log_probs.exp()).square().mean(dim=-1)


__all__ = ["mean_squared"]
