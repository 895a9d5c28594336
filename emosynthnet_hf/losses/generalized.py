"""Generalised cross-entropy and its truncated form: between cross-entropy and absolute error."""

import math

import torch
from torch import Tensor


def generalized(log_probs: Tensor, targets: Tensor, *, q: float = 0.7) -> Tensor:
    """Generalised cross-entropy L_q (Zhang and Sabuncu, 2018): `sum_k t_k (1 - p_k^q) / q`, (N,).

    Cross-entropy as q goes to 0, `1 - p` (half the absolute error) at 1: the larger q, the less a
    wrong label weighs. 0.7 is the paper's choice.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1.
        q: in (0, 1].

    Raises:
        ValueError: q out of range.
    """
    _check_unit("q", q)
    return -(targets * torch.expm1(q * log_probs)).sum(dim=-1) / q


def truncated_generalized(
    log_probs: Tensor, targets: Tensor, *, q: float = 0.7, threshold: float = 0.5
) -> Tensor:
    """Truncated L_q (eq. 2.4, 2.5; Zhang and Sabuncu, 2018): L_q where the target's probability is
    above k, the constant `L_q(k)` elsewhere, so that those samples teach nothing, (N,).

    Eq. 2.5 optimises weights w_i in [0, 1] for `sum_i w_i L_q - L_q(k) sum_i w_i`; its solution for
    given predictions, w_i = 1 where L_q is at most L_q(k), is taken in every step (the paper
    updates it every ten epochs, after some with L_q alone). The text has it the wrong way round:
    badly predicted samples are dropped, not well predicted ones. From scratch nearly all p are
    below k = 0.5: start from weights trained with `gce`, or choose a threshold near 1/K.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1.
        q: in (0, 1].
        threshold: k, in (0, 1).

    Raises:
        ValueError: a value out of range.
    """
    _check_unit("q", q)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be in (0, 1), got {threshold}")
    bounded = log_probs.clamp_min(math.log(threshold))  # L_q falls with p: min(L_q(p), L_q(k))
    return generalized(bounded, targets, q=q)


def _check_unit(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value}")


__all__ = ["generalized", "truncated_generalized"]
