"""Mean squared error on probabilities."""

from torch import Tensor


def mean_squared(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of probabilities, `mean_k (t_k - p_k)^2` (section 2.2.1, Table 4.1), (N,): the
    Brier score divided by K.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1.
    """
    return (targets - log_probs.exp()).square().mean(dim=-1)


__all__ = ["mean_squared"]
