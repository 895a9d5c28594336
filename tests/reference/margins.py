"""Margins and losses in plain decimal arithmetic, one sample and one class at a time.

Every function is its equation as it is printed (Nabaei 2024, chapter 4): exponentials are taken of
the numbers themselves, without any log-sum-exp rearrangement. Sixty decimal digits and unbounded
exponents make that exact for any logit a test can hold, so the rearrangements of the package are
checked against something that has none.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

Matrix = Sequence[Sequence[float]]
Numbers = list[Decimal]
DIGITS = 60


def decimals(values: Sequence[float]) -> Numbers:
    return [Decimal(value) for value in values]


def centred(logits: Numbers) -> Numbers:
    mean = sum(logits, Decimal(0)) / len(logits)
    return [logit - mean for logit in logits]


def clip(value: Decimal, lowest: Decimal, highest: Decimal) -> Decimal:
    if value < lowest:
        return lowest
    if value > highest:
        return highest
    return value


def softmax(logits: Numbers) -> Numbers:
    exponentials = [logit.exp() for logit in logits]
    total = sum(exponentials, Decimal(0))
    return [exponential / total for exponential in exponentials]


def lowered(logits: Numbers, targets: Numbers, margin: Decimal) -> Numbers:
    """The target's logit less the margin (eq. 4.13); soft targets share it by their probability."""
    return [logit - target * margin for logit, target in zip(logits, targets, strict=True)]


def one_against_the_rest(logits: Numbers, margin: Decimal) -> Numbers:
    """Figure 4.1: each class lowered in its own ratio; the ratios divided by their sum."""
    ratios = []
    exponentials = [logit.exp() for logit in logits]
    for k, logit in enumerate(logits):
        own = (logit - margin).exp()
        rest = Decimal(0)
        for j, exponential in enumerate(exponentials):
            if j != k:
                rest += exponential
        ratios.append(own / (own + rest))
    total = sum(ratios, Decimal(0))
    return [ratio / total for ratio in ratios]


def clipped_log_margin(largest: Decimal, epsilon: float, maximum: float) -> Decimal:
    """M_c, two lines below eq. 4.14; where M_v has no logarithm, the lower end of the clip."""
    upper_limit = largest + Decimal(epsilon)
    if upper_limit <= 0:
        return Decimal(0)
    return clip(upper_limit.ln(), Decimal(0), Decimal(maximum))


def none_sample(logits: Numbers, targets: Numbers) -> Numbers:
    return softmax(logits)


def mam_sample(
    logits: Numbers, targets: Numbers, epsilon: float = 0.2, maximum: float = 4.0
) -> Numbers:
    logits = centred(logits)
    return softmax(lowered(logits, targets, clipped_log_margin(max(logits), epsilon, maximum)))


def mam_all_sample(
    logits: Numbers, targets: Numbers, epsilon: float = 0.2, maximum: float = 4.0
) -> Numbers:
    logits = centred(logits)
    return one_against_the_rest(logits, clipped_log_margin(max(logits), epsilon, maximum))


def mam_figure_sample(
    logits: Numbers, targets: Numbers, epsilon: float = 0.2, maximum: float = 4.0
) -> Numbers:
    logits = centred(logits)
    clipped = clip(max(logits) + Decimal(epsilon), Decimal("1e-30"), Decimal(maximum))
    mean = sum((logit.exp() for logit in logits), Decimal(0)) / len(logits)
    return one_against_the_rest(logits, (mean + clipped.log10()).ln())


def mam_verbatim_sample(
    logits: Numbers, targets: Numbers, epsilon: float = 0.2, maximum: float = 4.0
) -> Numbers:
    mean = sum(logits, Decimal(0)) / len(logits)
    margin = mean + clipped_log_margin(max(logits), epsilon, maximum)  # M_U
    return softmax(lowered(logits, targets, margin))


SAMPLES: dict[str, Callable[..., Numbers]] = {
    "none": none_sample,
    "mam": mam_sample,
    "mam_all": mam_all_sample,
    "mam_figure": mam_figure_sample,
    "mam_verbatim": mam_verbatim_sample,
}


def log_probabilities(
    margin: str, logits: Matrix, targets: Matrix, **kwargs: float
) -> list[list[float]]:
    """Natural logarithms of the margin's probabilities, (N, K)."""
    with localcontext() as context:
        context.prec = DIGITS
        rows = []
        for logit_row, target_row in zip(logits, targets, strict=True):
            probabilities = SAMPLES[margin](decimals(logit_row), decimals(target_row), **kwargs)
            rows.append([float(probability.ln()) for probability in probabilities])
        return rows


def cross_entropy(log_probs: Matrix, targets: Matrix) -> list[float]:
    losses = []
    for log_row, target_row in zip(log_probs, targets, strict=True):
        loss = Decimal(0)
        for log_p, target in zip(decimals(log_row), decimals(target_row), strict=True):
            loss -= target * log_p
        losses.append(float(loss))
    return losses


def sce_parts(log_probs: Matrix, targets: Matrix) -> tuple[float, list[float], list[float]]:
    """alpha (eq. 4.3), each sample's weight (eq. 4.4) and each sample's log10 term (Figure 4.1)."""
    with localcontext() as context:
        context.prec = DIGITS
        squares = Decimal(0)
        count = 0
        weights = []
        terms = []
        for log_row, target_row in zip(log_probs, targets, strict=True):
            length = Decimal(0)
            term = Decimal(0)
            for log_p, target in zip(decimals(log_row), decimals(target_row), strict=True):
                probability = log_p.exp()
                squares += (target - probability) ** 2
                count += 1
                length += ((1 - target) - probability) ** 2
                term -= target * probability.log10()
            weights.append(float(length.sqrt()))
            terms.append(float(term))
        return float(squares / count), weights, terms


def sce(
    log_probs: Matrix, targets: Matrix, ce_factor: float = 0.5, sce_factor: float = 0.5
) -> list[float]:
    """Eq. 4.6 with each sample's share of the proposed term; the mean over samples is the loss."""
    alpha, weights, terms = sce_parts(log_probs, targets)
    plain = cross_entropy(log_probs, targets)
    return [
        ce_factor * ce + sce_factor * alpha * weight * term
        for ce, weight, term in zip(plain, weights, terms, strict=True)
    ]


LOSSES: dict[str, Callable[..., list[float]]] = {"ce": cross_entropy, "sce": sce}


def smoothed(targets: Matrix, smoothing: float) -> list[list[float]]:
    return [[(1 - smoothing) * target + smoothing / len(row) for target in row] for row in targets]


def total(
    losses: Sequence[float], targets: Matrix, class_weights: Sequence[float] | None = None
) -> float:
    """Mean over samples, weighted by w_i = sum_k t_ik c_k where class weights c are given."""
    if class_weights is None:
        return sum(losses) / len(losses)
    numerator = 0.0
    denominator = 0.0
    for loss, row in zip(losses, targets, strict=True):
        weight = sum(t * c for t, c in zip(row, class_weights, strict=True))
        numerator += weight * loss
        denominator += weight
    return numerator / denominator
