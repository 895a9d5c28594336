"""The laboratory's margins and losses, one sample and one class at a time, as their papers print
them: angles by acos, probabilities by plain exponentials in sixty decimal digits, no
rearrangement."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from typing import Any

from tests.reference.margins import DIGITS, Matrix, decimals, softmax

# --- margins: (cos theta, theta) of the target -> what takes the place of cos theta ---------------


def additive_cosine(cosine: float, theta: float, margin: float = 0.35) -> float:
    return cosine - margin  # eq. 2.23


def additive_angle(cosine: float, theta: float, margin: float = 0.5) -> float:
    if theta <= math.pi - margin:
        return math.cos(theta + margin)  # eq. 2.24
    return cosine - margin * math.sin(margin)


def dynamic_additive(
    cosine: float, theta: float, margin: float = 0.2, control: float = 2.0
) -> float:
    return cosine - margin * math.exp(1 - cosine) / control


def multiplicative_angle(
    cosine: float,
    theta: float,
    margin: int = 4,
    progress: float = 0.0,
    annealing_start: float = 1000.0,
    annealing_rate: float = 3360.0,
    annealing_end: float = 5.0,
) -> float:
    k = min(math.floor(theta * margin / math.pi), margin - 1)
    psi = (-1) ** k * math.cos(margin * theta) - 2 * k
    weight = max(annealing_end, annealing_start / (1 + annealing_rate * progress))
    return (weight * cosine + psi) / (1 + weight)


ANGULAR: dict[str, Callable[..., float]] = {
    "am": additive_cosine,
    "aam": additive_angle,
    "dam": dynamic_additive,
    "l": multiplicative_angle,
    "a": multiplicative_angle,
}


def margin_log_probabilities(
    name: str, logits: Matrix, targets: Matrix, norms: Matrix, **kwargs: Any
) -> list[list[float]]:
    """Natural logarithms of the margin's probabilities, (N, K). A target's share of the change is
    its probability. `norms` is (N, K)."""
    with localcontext() as context:
        context.prec = DIGITS
        rows = []
        for logit_row, target_row, norm_row in zip(logits, targets, norms, strict=True):
            lowered = []
            for logit, target, norm in zip(logit_row, target_row, norm_row, strict=True):
                if name == "sm":
                    lowered.append(logit - target * kwargs.get("margin", 0.5))  # eq. 2.20
                    continue
                cosine = max(-1.0, min(1.0, logit / norm))
                if name == "double_am":  # eq. 2.30: less m for the target, m more for the others
                    margin = kwargs.get("margin", 0.175)
                    changed = target * (cosine - margin) + (1 - target) * (cosine + margin)
                else:
                    after = ANGULAR[name](cosine, math.acos(cosine), **kwargs)
                    changed = target * after + (1 - target) * cosine
                lowered.append(norm * changed)
            rows.append([float(p.ln()) for p in softmax(decimals(lowered))])
        return rows


# --- losses: probabilities and targets of one sample -> loss --------------------------------------


def mean_squared(p: list[Decimal], t: list[Decimal]) -> Decimal:
    return sum(((a - b) ** 2 for a, b in zip(t, p, strict=True)), Decimal(0)) / len(p)


def focal(p: list[Decimal], t: list[Decimal], gamma: float = 2.0) -> Decimal:
    # eq. 4.2
    return -sum(
        (b * (1 - a) ** Decimal(gamma) * a.ln() for a, b in zip(p, t, strict=True)), Decimal(0)
    )


def generalized(p: list[Decimal], t: list[Decimal], q: float = 0.7) -> Decimal:
    return sum(
        (b * (1 - a ** Decimal(q)) / Decimal(q) for a, b in zip(p, t, strict=True)), Decimal(0)
    )


def truncated_generalized(
    p: list[Decimal], t: list[Decimal], q: float = 0.7, threshold: float = 0.5
) -> Decimal:
    # eq. 2.4: the constant L_q(k) where p is at most k
    return generalized([a if a > Decimal(threshold) else Decimal(threshold) for a in p], t, q)


def real_world(
    p: list[Decimal],
    t: list[Decimal],
    false_negative_costs: float | Sequence[float] = 1.0,
    false_positive_costs: float | Sequence[Sequence[float]] = 1.0,
) -> Decimal:
    loss = Decimal(0)
    for k, (probability, target) in enumerate(zip(p, t, strict=True)):
        missed = (
            false_negative_costs
            if isinstance(false_negative_costs, float)
            else false_negative_costs[k]
        )
        loss -= target * Decimal(missed) * probability.ln()
        for j, other in enumerate(p):
            if j != k:
                taken = (
                    false_positive_costs
                    if isinstance(false_positive_costs, float)
                    else false_positive_costs[k][j]
                )
                loss -= target * Decimal(taken) * (1 - other).ln()
    return loss


def cross_entropy(p: list[Decimal], t: list[Decimal]) -> Decimal:
    return -sum((b * a.ln() for a, b in zip(p, t, strict=True) if b), Decimal(0))


def mixed(
    p: list[Decimal], t: list[Decimal], progress: float = 0.0, maximum: float = 0.5
) -> Decimal:
    share = Decimal(maximum) * Decimal(progress)
    return (1 - share) * cross_entropy(p, t) - share * max(p).ln()  # eq. 2.7


def reverse(p: list[Decimal], t: list[Decimal], log_zero: float) -> Decimal:
    """-sum_k p_k log t_k with log 0 = A, and no logarithm below A."""
    lowest = Decimal(log_zero)
    logs = [max(target.ln(), lowest) if target else lowest for target in t]
    return -sum((a * b for a, b in zip(p, logs, strict=True)), Decimal(0))


def active_passive(
    p: list[Decimal],
    t: list[Decimal],
    alpha: float = 1.0,
    beta: float = 1.0,
    log_zero: float = math.log(1e-4),
) -> Decimal:
    active = cross_entropy(p, t) / -sum((a.ln() for a in p), Decimal(0))
    return Decimal(alpha) * active + Decimal(beta) * reverse(p, t, log_zero)  # eq. 2.8


def dynamically_weighted(
    p: list[Decimal], t: list[Decimal], class_counts: Sequence[int] | None = None
) -> Decimal:
    counts = [max(count, 1) for count in class_counts or [1] * len(p)]
    loss = Decimal(0)
    for probability, target, count in zip(p, t, counts, strict=True):
        weight = (Decimal(max(counts)) / count).ln() + 1  # eq. 2.10
        loss -= weight ** (1 - probability) * target * probability.ln()
        loss += probability * (1 - probability)  # eq. 2.9, read with the bracket around both
    return loss


def symmetric(
    p: list[Decimal],
    t: list[Decimal],
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Decimal:
    return Decimal(alpha) * cross_entropy(p, t) + Decimal(beta) * reverse(p, t, log_zero)


SAMPLES: dict[str, Callable[..., Decimal]] = {
    "mse": mean_squared,
    "focal": focal,
    "gce": generalized,
    "truncated_gce": truncated_generalized,
    "real_world_ce": real_world,
    "mixed_ce": mixed,
    "active_passive": active_passive,
    "dwb": dynamically_weighted,
    "symmetric_ce": symmetric,
}


def losses(name: str, log_probs: Matrix, targets: Matrix, **kwargs: Any) -> list[float]:
    """One loss a sample, (N,)."""
    with localcontext() as context:
        context.prec = DIGITS
        if name == "sample_ratio":
            return _sample_ratio(log_probs, targets, **kwargs)
        return [
            float(
                SAMPLES[name]([value.exp() for value in decimals(row)], decimals(target), **kwargs)
            )
            for row, target in zip(log_probs, targets, strict=True)
        ]


def _sample_ratio(
    log_probs: Matrix,
    targets: Matrix,
    progress: float = 0.0,
    noise_ratio: float = 0.2,
    **kwargs: float,
) -> list[float]:
    """Symmetric cross-entropy of the 1 - tau * progress of the batch with the smallest (eq. 2.11),
    times N / kept, so that the mean over the batch is theirs."""
    every = losses("symmetric_ce", log_probs, targets, **kwargs)
    kept = max(1, math.ceil(round((1 - noise_ratio * progress) * len(every), 6)))
    smallest = sorted(range(len(every)), key=lambda row: every[row])[:kept]
    return [
        value * len(every) / kept if row in smallest else 0.0 for row, value in enumerate(every)
    ]
