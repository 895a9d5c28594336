"""Scores of a classifier, one definition each, as pure functions on numpy arrays.

N is the number of samples, K the number of classes. Labels and predictions are integers (N,) from 0
to K - 1; log-probabilities are natural logarithms (N, K). Wherever a ratio has no denominator (a
class that was never predicted, or has no sample) it is 0, as in scikit-learn with
`zero_division=0`; macro averages run over all K classes, those without samples included.
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CALIBRATION_BINS = 15
# A validation set that asks for more than this is separated without error or is at chance.
TEMPERATURE_RANGE = (0.05, 20.0)
# Coverages at which the risk-coverage curve is reported: 5 %, 10 %, ... 100 % of the samples.
REPORTED_COVERAGES = 20
# Decimals of reported scores: finer than one sample in 100,000, coarser than float32's noise.
DECIMALS = 6
# Panels that are drawn for the ceiling: the mean's standard error is far below a hundredth of 1 %.
PANELS = 100


def log_softmax(logits: ArrayLike) -> FloatArray:
    """Log-probabilities (N, K) in float64 from logits (N, K).

    Raises:
        ValueError: not two-dimensional, or no sample, or a value that is not finite.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"logits must have shape (samples, classes), both at least 1, got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("logits must be finite, got nan or infinity")
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_labels: int) -> IntArray:
    """Counts (K, K): entry [i, j] is how many samples of class i were predicted as class j.

    Raises:
        ValueError: labels and predictions of unequal length, none at all, or outside 0 to K - 1.
    """
    true = check_classes("labels", labels, num_labels)
    predicted = check_classes("predictions", predictions, num_labels)
    if len(true) != len(predicted):
        raise ValueError(
            f"labels and predictions must be equally many, got {len(true)} and {len(predicted)}"
        )
    counts = np.bincount(true * num_labels + predicted, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels).astype(np.int64)


def check_classes(name: str, values: ArrayLike, num_labels: int) -> IntArray:
    """`values` as int64 (N,), N at least 1.

    Raises:
        ValueError: another shape, not integers, or outside 0 to `num_labels` - 1; the message
            starts with `name`.
    """
    classes = np.asarray(values)
    if classes.ndim != 1 or not classes.size or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"{name} must be at least one integer in one dimension, "
            f"got {classes.dtype} of shape {classes.shape}"
        )
    if classes.min() < 0 or classes.max() >= num_labels:
        raise ValueError(
            f"{name} must be from 0 to {num_labels - 1}, "
            f"got values from {classes.min()} to {classes.max()}"
        )
    return classes.astype(np.int64)


def accuracy(confusion: IntArray) -> float:
    """Share of samples predicted as their own class."""
    return float(np.trace(confusion) / confusion.sum())


def precision(confusion: IntArray) -> FloatArray:
    """Of the samples predicted as each class, the share that is of it: (K,)."""
    return _ratio(np.diag(confusion), confusion.sum(axis=0))


def recall(confusion: IntArray) -> FloatArray:
    """Of the samples of each class, the share predicted as it: (K,)."""
    return _ratio(np.diag(confusion), confusion.sum(axis=1))


def f1(confusion: IntArray) -> FloatArray:
    """Harmonic mean of precision and recall, `2 TP / (2 TP + FP + FN)`: (K,)."""
    return _ratio(2 * np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1))


def balanced_accuracy(confusion: IntArray) -> float:
    """Mean recall over the classes that have samples."""
    return float(recall(confusion)[confusion.sum(axis=1) > 0].mean())


def _ratio(numerator: IntArray, denominator: IntArray) -> FloatArray:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 0.0)


def negative_log_likelihood(log_probabilities: FloatArray, labels: ArrayLike) -> float:
    """Mean of `-ln p[label]` over samples, in nats: the plain cross-entropy of one-hot targets."""
    classes = check_classes("labels", labels, log_probabilities.shape[1])
    return float(-log_probabilities[np.arange(len(classes)), classes].mean())


@dataclass(frozen=True)
class ReliabilityBin:
    """The samples whose confidence is in (`lower`, `upper`]; means are None where `count` is 0."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(
    confidences: FloatArray, correct: NDArray[np.bool_], num_bins: int = CALIBRATION_BINS
) -> tuple[ReliabilityBin, ...]:
    """Confidence against accuracy in equal-width, right-closed bins (Guo et al., 2017, section 2).

    Args:
        confidences: (N,), the probability of the predicted class, in (0, 1].
        correct: (N,), whether the prediction is right.
        num_bins: bin i, from 1, holds the confidences in ((i - 1) / num_bins, i / num_bins].
    """
    edges = np.arange(num_bins + 1) / num_bins
    # Rounding may lift a confidence just above 1.
    index = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, num_bins - 1)
    bins = []
    for number in range(num_bins):
        members = index == number
        count = int(members.sum())
        bins.append(
            ReliabilityBin(
                lower=float(edges[number]),
                upper=float(edges[number + 1]),
                count=count,
                confidence=float(confidences[members].mean()) if count else None,
                accuracy=float(correct[members].mean()) if count else None,
            )
        )
    return tuple(bins)


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Mean over samples of their bin's |accuracy - confidence| (Guo et al., 2017, eq. 3)."""
    gaps = [
        bin.count * abs(bin.accuracy - bin.confidence)
        for bin in bins
        if bin.accuracy is not None and bin.confidence is not None
    ]
    return math.fsum(gaps) / sum(bin.count for bin in bins)


def risk_coverage(confidences: FloatArray, correct: NDArray[np.bool_]) -> FloatArray:
    """Error rate among the n most confident samples, n = 1 to N: (N,) (Geifman et al., 2019).

    Samples of equal confidence are taken in the mean over their orders, so the order of samples has
    no effect. The area under the curve (AURC) is the mean of the result.
    """
    order = np.argsort(-confidences, kind="stable")
    errors = np.cumsum(~correct[order])
    # Last position of each group of equal confidence; between two of them errors grow evenly.
    ends = np.append(np.flatnonzero(np.diff(confidences[order])), len(order) - 1)
    taken = np.arange(1, len(order) + 1)
    expected = np.interp(taken, np.append(0, ends + 1), np.append(0, errors[ends]))
    return np.asarray(expected / taken)


def vote_accuracy(predictions: ArrayLike, votes: ArrayLike) -> float:
    """Share of predictions that are the class with the most votes.

    Samples without a single such class, tied or without any vote, are left out.

    Args:
        predictions: (N,).
        votes: (N, K), how many people chose each class, or shares of them.

    Raises:
        ValueError: shapes that do not agree, negative votes, or no sample with a single majority.
    """
    counts = _check_votes(votes)
    predicted = check_classes("predictions", predictions, counts.shape[1])
    if len(predicted) != len(counts):
        raise ValueError(f"got {len(predicted)} predictions for votes on {len(counts)} samples")
    single = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) == 1
    if not single.any():
        raise ValueError("votes must single out a class for at least one sample, got ties only")
    return float((counts.argmax(axis=1) == predicted)[single].mean())


def vote_divergence(log_probabilities: FloatArray, votes: ArrayLike) -> float:
    """Mean Kullback-Leibler divergence KL(votes || prediction) over samples with votes, in nats.

    Args:
        log_probabilities: (N, K).
        votes: (N, K), how many people chose each class; a sample's votes are divided by their sum.

    Raises:
        ValueError: shapes that do not agree, negative votes, or no vote at all.
    """
    counts = _check_votes(votes)
    if log_probabilities.shape != counts.shape:
        raise ValueError(
            f"log_probabilities and votes must have one shape, "
            f"got {log_probabilities.shape} and {counts.shape}"
        )
    voted = counts.sum(axis=1) > 0
    if not voted.any():
        raise ValueError("votes must be above 0 for at least one sample, got none")
    shares = counts[voted] / counts[voted].sum(axis=1, keepdims=True)
    # 0 ln 0 = 0
    log_shares = np.log(np.where(shares > 0, shares, 1.0))
    return float((shares * (log_shares - log_probabilities[voted])).sum(axis=1).mean())


@dataclass(frozen=True)
class VoteScores:
    """Agreement with votes: see `vote_accuracy` and `vote_divergence` (nats)."""

    accuracy: float
    divergence: float


@dataclass(frozen=True)
class VoteCeiling:
    """What people's votes themselves score.

    Attributes:
        num_voted: samples with votes, over which divergences run.
        num_majorities: samples whose votes single out a class, over which accuracies run.
        label_agreement: share of those whose label is the class with the most votes.
        panel: a second panel of annotators, scored as a model is: see `score_panel`.
    """

    num_voted: int
    num_majorities: int
    label_agreement: float
    panel: VoteScores


def score_panel(votes: ArrayLike, *, seed: int = 0) -> VoteScores:
    """What a second panel of annotators scores against the votes of the first.

    Each sample's panel is as many votes as it has, drawn with replacement from them (the
    bootstrap). The panel predicts its majority, ties broken at random, and as probabilities its
    shares after one more vote is spread evenly over the K classes, without which a class that
    nobody drew would make the divergence infinite. Mean over `PANELS` panels.

    Args:
        votes: (N, K), whole numbers of votes.
        seed: of the draws.

    Raises:
        ValueError: negative or fractional votes, or no sample with a single majority.
    """
    counts = _check_votes(votes)
    if (counts != np.floor(counts)).any():
        raise ValueError("votes must be whole numbers, got fractions")
    counts = counts[counts.sum(axis=1) > 0]
    num_votes = counts.sum(axis=1, keepdims=True)
    generator = np.random.default_rng(seed)
    accuracies, divergences = [], []
    for _ in range(PANELS):
        drawn = generator.multinomial(num_votes[:, 0].astype(np.int64), counts / num_votes)
        # A fraction of a vote decides between equals and nothing else.
        predictions = (drawn + generator.random(drawn.shape)).argmax(axis=1)
        accuracies.append(vote_accuracy(predictions, counts))
        log_shares = np.log((drawn + 1 / counts.shape[1]) / (num_votes + 1))
        divergences.append(vote_divergence(log_shares, counts))
    return VoteScores(_rounded(sum(accuracies) / PANELS), _rounded(sum(divergences) / PANELS))


def score_votes(log_probabilities: FloatArray, votes: ArrayLike) -> VoteScores:
    """Agreement of predictions with log-probabilities (N, K) with votes (N, K).

    Raises:
        ValueError: as `vote_accuracy` and `vote_divergence`.
    """
    return VoteScores(
        _rounded(vote_accuracy(log_probabilities.argmax(axis=1), votes)),
        _rounded(vote_divergence(log_probabilities, votes)),
    )


def vote_ceiling(labels: ArrayLike, votes: ArrayLike) -> VoteCeiling:
    """What the votes (N, K) themselves score: labels (N,) against them, and a second panel.

    Raises:
        ValueError: as `vote_accuracy` and `score_panel`.
    """
    counts = _check_votes(votes)
    single = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return VoteCeiling(
        num_voted=int((counts.sum(axis=1) > 0).sum()),
        num_majorities=int(single.sum()),
        label_agreement=_rounded(vote_accuracy(labels, votes)),
        panel=score_panel(votes),
    )


@dataclass(frozen=True)
class TwinScores:
    """Accuracy apart for samples with a twin in train; None where there are no such samples."""

    num_twins: int
    accuracy: float
    accuracy_without_twins: float | None
    accuracy_of_twins: float | None


def score_twins(
    log_probabilities: FloatArray, labels: ArrayLike, is_twin: NDArray[np.bool_]
) -> TwinScores:
    """Accuracy on all samples, on those that are not in train, and on those that are.

    Args:
        log_probabilities: (N, K).
        labels: (N,).
        is_twin: (N,), whether a twin of the sample is in train: `duplicates.twins`.

    Raises:
        ValueError: labels outside 0 to K - 1, or arrays of unequal length.
    """
    classes = check_classes("labels", labels, log_probabilities.shape[1])
    if not len(classes) == len(is_twin) == len(log_probabilities):
        raise ValueError(
            f"log_probabilities, labels and is_twin must be equally many, "
            f"got {len(log_probabilities)}, {len(classes)} and {len(is_twin)}"
        )
    correct = log_probabilities.argmax(axis=1) == classes
    return TwinScores(
        num_twins=int(is_twin.sum()),
        accuracy=_rounded(correct.mean()),
        accuracy_without_twins=None if is_twin.all() else _rounded(correct[~is_twin].mean()),
        accuracy_of_twins=_rounded(correct[is_twin].mean()) if is_twin.any() else None,
    )


def _check_votes(votes: ArrayLike) -> FloatArray:
    counts = np.asarray(votes, dtype=np.float64)
    if counts.ndim != 2 or not counts.size or not (counts >= 0).all():
        raise ValueError(
            f"votes must be numbers of at least 0, samples x classes, got shape {counts.shape}"
            f"{f' and a least value of {counts.min()}' if counts.size else ''}"
        )
    return counts


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T above 0 that minimises the loss of `logits / T` (Guo et al., 2017, section 4.2).

    The negative log-likelihood is convex in 1 / T, so its slope there, `mean(E_p[z] - z_label)`,
    changes sign once: bisection on ln T finds the place. Fit on validation data, on logits that no
    temperature has divided yet.

    Args:
        logits: (N, K).
        labels: (N,).

    Returns:
        T, within `TEMPERATURE_RANGE`: the nearer end of it if the minimum is outside.

    Raises:
        ValueError: logits or labels of another shape, or not finite.
    """
    values = np.asarray(logits, dtype=np.float64)
    classes = check_classes("labels", labels, values.shape[1])
    at_label = values[np.arange(len(classes)), classes]

    def slope(log_temperature: float) -> float:
        probabilities = np.exp(log_softmax(values / math.exp(log_temperature)))
        return float(((probabilities * values).sum(axis=1) - at_label).mean())

    low, high = (math.log(bound) for bound in TEMPERATURE_RANGE)
    # A positive slope in 1 / T asks for a larger T.
    if slope(high) >= 0:
        return TEMPERATURE_RANGE[1]
    if slope(low) <= 0:
        return TEMPERATURE_RANGE[0]
    while high - low > 1e-12:
        middle = (low + high) / 2
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


@dataclass(frozen=True)
class ClassScores:
    """One class's precision, recall and F1, and how many samples it has."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Everything that is reported of one set of predictions; floats are rounded to 6 decimals.

    `loss` is the negative log-likelihood in nats; `per_class` maps label names in label order;
    `confusion_matrix` has true classes as rows; `risk_coverage` holds (coverage, risk) points.
    """

    accuracy: float
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    loss: float
    expected_calibration_error: float
    risk_coverage_area: float
    per_class: dict[str, ClassScores]
    confusion_matrix: tuple[tuple[int, ...], ...]
    reliability_bins: tuple[ReliabilityBin, ...]
    risk_coverage: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, for JSON."""
        return asdict(self) | {
            "confusion_matrix": [list(row) for row in self.confusion_matrix],
            "reliability_bins": [asdict(bin) for bin in self.reliability_bins],
            "risk_coverage": [list(point) for point in self.risk_coverage],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scores":
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or unknown.
        """
        check_fields(cls, values)
        converted = {
            "per_class": {
                name: ClassScores(**entry) for name, entry in values["per_class"].items()
            },
            "confusion_matrix": tuple(tuple(row) for row in values["confusion_matrix"]),
            "reliability_bins": tuple(
                ReliabilityBin(**entry) for entry in values["reliability_bins"]
            ),
            "risk_coverage": tuple((coverage, risk) for coverage, risk in values["risk_coverage"]),
        }
        return cls(**(values | converted))


def check_fields(cls: type[Any], values: dict[str, Any]) -> None:
    """Hold that the keys of `values` are the fields of the dataclass `cls`.

    Fields with a default may be missing.

    Raises:
        ValueError: naming the fields that are missing or unknown.
    """
    names = {field.name for field in fields(cls)}
    needed = {field.name for field in fields(cls) if field.default is MISSING}
    if not needed <= set(values) <= names:
        raise ValueError(
            f"{cls.__name__} has missing fields {sorted(needed - set(values))}, "
            f"unknown fields {sorted(set(values) - names)}"
        )


def score(log_probabilities: FloatArray, labels: ArrayLike, label_names: list[str]) -> Scores:
    """All scores of predictions with log-probabilities (N, K) for samples with labels (N,).

    The prediction is the class of the largest log-probability, the first of equals; its probability
    is its confidence.

    Raises:
        ValueError: shapes that do not agree, or labels outside 0 to K - 1.
    """
    num_labels = len(label_names)
    if log_probabilities.ndim != 2 or log_probabilities.shape[1] != num_labels:
        raise ValueError(
            f"log_probabilities must have shape (samples, {num_labels}), one column a label name, "
            f"got {log_probabilities.shape}"
        )
    predictions = log_probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predictions, num_labels)
    confidences = np.exp(log_probabilities.max(axis=1))
    correct = predictions == np.asarray(labels)
    bins = reliability_bins(confidences, correct)
    risks = risk_coverage(confidences, correct)
    count = len(risks)
    taken = [
        math.ceil(count * step / REPORTED_COVERAGES) for step in range(1, REPORTED_COVERAGES + 1)
    ]
    columns = zip(
        label_names,
        precision(confusion),
        recall(confusion),
        f1(confusion),
        confusion.sum(axis=1),
        strict=True,
    )
    return Scores(
        accuracy=_rounded(accuracy(confusion)),
        balanced_accuracy=_rounded(balanced_accuracy(confusion)),
        macro_precision=_rounded(precision(confusion).mean()),
        macro_recall=_rounded(recall(confusion).mean()),
        macro_f1=_rounded(f1(confusion).mean()),
        loss=_rounded(negative_log_likelihood(log_probabilities, labels)),
        expected_calibration_error=_rounded(expected_calibration_error(bins)),
        risk_coverage_area=_rounded(risks.mean()),
        per_class={
            name: ClassScores(
                _rounded(class_precision), _rounded(class_recall), _rounded(class_f1), int(support)
            )
            for name, class_precision, class_recall, class_f1, support in columns
        },
        confusion_matrix=tuple(tuple(int(entry) for entry in row) for row in confusion),
        reliability_bins=tuple(
            ReliabilityBin(
                _rounded(bin.lower),
                _rounded(bin.upper),
                bin.count,
                None if bin.confidence is None else _rounded(bin.confidence),
                None if bin.accuracy is None else _rounded(bin.accuracy),
            )
            for bin in bins
        ),
        risk_coverage=tuple(
            (_rounded(number / count), _rounded(risks[number - 1])) for number in taken
        ),
    )


def _rounded(value: float | np.float64) -> float:
    return round(float(value), DECIMALS)


__all__ = [
    "CALIBRATION_BINS",
    "TEMPERATURE_RANGE",
    "ClassScores",
    "ReliabilityBin",
    "Scores",
    "TwinScores",
    "VoteCeiling",
    "VoteScores",
    "accuracy",
    "balanced_accuracy",
    "confusion_matrix",
    "expected_calibration_error",
    "f1",
    "fit_temperature",
    "log_softmax",
    "negative_log_likelihood",
    "precision",
    "recall",
    "reliability_bins",
    "risk_coverage",
    "score",
    "score_panel",
    "score_twins",
    "score_votes",
    "vote_accuracy",
    "vote_ceiling",
    "vote_divergence",
]
