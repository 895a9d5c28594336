"""The scores against scikit-learn and scipy, slow oracles, closed forms and numbers by hand."""

import json
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.stats import entropy
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    precision_recall_fscore_support,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from emosynthnet_hf import scores
from tests.reference import scores as reference

NAMES = ["angry", "disgust", "fear", "happy", "sad"]


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and labels of 1 to 40 samples, 2 to 6 classes; classes may have no sample.

    Logits are quarters, so that no rounding makes unequal ones equal.
    """
    count, classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    logits = draw(arrays(np.int64, (count, classes), elements=st.integers(-80, 80))) / 4
    labels = draw(arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    return scores.log_softmax(logits), labels


def made_up(count: int = 500, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) * 2
    logits[np.arange(count), labels] += 1.5
    return logits, labels


@given(predictions())
def test_confusion_scores_equal_scikit_learn(sample: tuple[np.ndarray, np.ndarray]) -> None:
    log_probabilities, labels = sample
    classes = log_probabilities.shape[1]
    predicted = log_probabilities.argmax(axis=1)
    confusion = scores.confusion_matrix(labels, predicted, classes)
    every = list(range(classes))

    np.testing.assert_array_equal(
        confusion, sklearn_confusion_matrix(labels, predicted, labels=every)
    )
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    np.testing.assert_allclose(scores.precision(confusion), precision, atol=1e-15)
    np.testing.assert_allclose(scores.recall(confusion), recall, atol=1e-15)
    np.testing.assert_allclose(scores.f1(confusion), f1, atol=1e-15)
    assert scores.accuracy(confusion) == pytest.approx(accuracy_score(labels, predicted))
    # scikit-learn's own function warns of classes that only predictions have; the mean is the same.
    present = [name for name in every if name in labels]
    assert scores.balanced_accuracy(confusion) == pytest.approx(recall[present].mean())


def test_balanced_accuracy_and_loss_equal_scikit_learn() -> None:
    logits, labels = made_up()
    log_probabilities = scores.log_softmax(logits)
    predicted = logits.argmax(axis=1)
    confusion = scores.confusion_matrix(labels, predicted, 5)
    assert scores.balanced_accuracy(confusion) == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
    assert scores.negative_log_likelihood(log_probabilities, labels) == pytest.approx(
        log_loss(labels, np.exp(log_probabilities)), rel=1e-12
    )


def test_scores_by_hand() -> None:
    # Class 0: three samples, two found; class 1: one sample, found; class 2: none, predicted once.
    confusion = scores.confusion_matrix([0, 0, 0, 1], [0, 0, 2, 1], 3)
    np.testing.assert_array_equal(confusion, [[2, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert scores.accuracy(confusion) == 3 / 4
    np.testing.assert_allclose(scores.precision(confusion), [1, 1, 0])
    np.testing.assert_allclose(scores.recall(confusion), [2 / 3, 1, 0])
    np.testing.assert_allclose(scores.f1(confusion), [4 / 5, 1, 0])
    assert scores.balanced_accuracy(confusion) == pytest.approx((2 / 3 + 1) / 2)


def test_log_softmax_of_large_logits() -> None:
    log_probabilities = scores.log_softmax([[1e4, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(log_probabilities, [[0, -1e4], [-math.log(2)] * 2])


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_calibration_error_equals_the_plain_loop(
    samples: list[tuple[float, bool]], num_bins: int
) -> None:
    confidences, correct = map(list, zip(*samples, strict=True))
    bins = scores.reliability_bins(np.array(confidences), np.array(correct), num_bins)
    assert sum(bin.count for bin in bins) == len(samples)
    assert scores.expected_calibration_error(bins) == pytest.approx(
        reference.expected_calibration_error(confidences, correct, num_bins), abs=1e-12
    )


def test_calibration_error_by_hand() -> None:
    # Bin (0.4, 0.6]: confidence 0.5, accuracy 0.5. Bin (0.8, 1]: confidence 0.95, accuracy 0.5.
    bins = scores.reliability_bins(
        np.array([0.45, 0.55, 0.9, 1.0]), np.array([True, False, True, False]), num_bins=5
    )
    assert [bin.count for bin in bins] == [0, 0, 2, 0, 2]
    assert bins[0].accuracy is None and bins[0].confidence is None
    assert scores.expected_calibration_error(bins) == pytest.approx(2 / 4 * 0.45)


def test_bins_are_closed_on_the_right() -> None:
    edges = np.arange(1, 16) / 15
    bins = scores.reliability_bins(edges, np.ones(15, dtype=bool))
    assert [bin.count for bin in bins] == [1] * 15
    above = scores.reliability_bins(np.nextafter(edges[:-1], 1), np.ones(14, dtype=bool))
    assert [bin.count for bin in above] == [0] + [1] * 14


@given(
    st.lists(
        st.tuples(st.sampled_from([0.3, 0.5, 0.8, 0.9]), st.booleans()), min_size=1, max_size=6
    )
)
def test_risk_coverage_equals_the_mean_over_orders(samples: list[tuple[float, bool]]) -> None:
    confidences, correct = map(list, zip(*samples, strict=True))
    risks = scores.risk_coverage(np.array(confidences), np.array(correct))
    np.testing.assert_allclose(risks, reference.risk_coverage(confidences, correct), atol=1e-12)


def test_risk_coverage_by_hand() -> None:
    risks = scores.risk_coverage(np.array([0.5, 0.9, 0.7]), np.array([True, True, False]))
    np.testing.assert_allclose(risks, [0, 1 / 2, 1 / 3])


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.7])
def test_temperature_of_true_log_odds(temperature: float) -> None:
    # Samples as frequent as their class's probability are fitted best by the true log-odds.
    counts = np.array([[1, 4, 5], [7, 2, 1], [3, 3, 4]])
    log_odds = np.repeat(np.log(counts / 10), 10, axis=0)
    labels = np.concatenate([np.repeat(np.arange(3), row) for row in counts])
    fitted = scores.fit_temperature(temperature * log_odds, labels)
    assert fitted == pytest.approx(temperature, rel=1e-9)


def test_temperature_of_two_classes_in_closed_form() -> None:
    # All logits (0, z), a share q of class 1: the loss is least where sigmoid(z / T) = q.
    logits = np.tile([0.0, 2.0], (10, 1))
    labels = np.array([1] * 8 + [0] * 2)
    assert scores.fit_temperature(logits, labels) == pytest.approx(
        2 / math.log(0.8 / 0.2), rel=1e-9
    )


def test_temperature_equals_scipy() -> None:
    logits, labels = made_up()

    def loss(log_temperature: float) -> float:
        scaled = scores.log_softmax(logits / math.exp(log_temperature))
        return scores.negative_log_likelihood(scaled, labels)

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    assert scores.fit_temperature(logits, labels) == pytest.approx(math.exp(found.x), rel=1e-6)


def test_temperature_stays_in_its_range() -> None:
    low, high = scores.TEMPERATURE_RANGE
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert scores.fit_temperature(logits, [0, 1]) == low
    assert scores.fit_temperature(logits, [1, 0]) == high


def test_votes_by_hand() -> None:
    votes = [[6, 2, 0], [5, 5, 0], [0, 0, 0], [0, 0, 4]]
    # The second sample is tied and the third has no vote: one of two is right.
    assert scores.vote_accuracy([0, 0, 0, 1], votes) == 1 / 2
    thirds = np.log(np.full((4, 3), 1 / 3))
    expected = [math.log(3) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25), math.log(1.5)]
    assert scores.vote_divergence(thirds, votes) == pytest.approx(
        (expected[0] + expected[1] + math.log(3)) / 3
    )


def test_vote_divergence_equals_scipy() -> None:
    logits, _ = made_up(50)
    votes = np.random.default_rng(1).integers(0, 4, logits.shape)
    log_probabilities = scores.log_softmax(logits)
    expected = [
        entropy(row, probabilities)
        for row, probabilities in zip(votes, np.exp(log_probabilities), strict=True)
    ]
    assert scores.vote_divergence(log_probabilities, votes) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("votes", "message"),
    [
        ([[1, 1], [0, 0]], "ties only"),
        ([[1, -1], [0, 1]], r"at least 0.*got shape \(2, 2\) and a least value of -1"),
        ([[1, 2]], "got 2 predictions for votes on 1 samples"),
    ],
)
def test_errors_of_votes(votes: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores.vote_accuracy([0, 1], votes)


def test_errors_of_vote_divergence() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 5\) and \(1, 5\)"):
        scores.vote_divergence(np.zeros((2, 5)), np.ones((1, 5)))
    with pytest.raises(ValueError, match="at least one sample, got none"):
        scores.vote_divergence(np.zeros((2, 5)), np.zeros((2, 5)))


@given(predictions(), st.randoms(use_true_random=False), st.floats(0.1, 10))
def test_neither_order_nor_temperature_changes_the_confusion_matrix(
    sample: tuple[np.ndarray, np.ndarray], random: Random, temperature: float
) -> None:
    log_probabilities, labels = sample
    names = [str(number) for number in range(log_probabilities.shape[1])]
    result = scores.score(log_probabilities, labels, names)

    order = random.sample(range(len(labels)), len(labels))
    shuffled = scores.score(log_probabilities[order], labels[order], names)
    assert shuffled.confusion_matrix == result.confusion_matrix
    for name in ("loss", "expected_calibration_error", "risk_coverage_area"):
        assert getattr(shuffled, name) == pytest.approx(getattr(result, name), abs=2e-6)

    scaled = scores.log_softmax(log_probabilities / temperature)
    assert scores.score(scaled, labels, names).confusion_matrix == result.confusion_matrix


def test_fitted_temperature_lowers_loss_and_calibration_error() -> None:
    logits, labels = made_up(count=4000)
    overconfident = logits * 3
    temperature = scores.fit_temperature(overconfident, labels)
    before = scores.score(scores.log_softmax(overconfident), labels, NAMES)
    after = scores.score(scores.log_softmax(overconfident / temperature), labels, NAMES)
    assert after.loss < before.loss
    assert after.expected_calibration_error < 0.5 * before.expected_calibration_error


def test_score_gathers_the_functions() -> None:
    logits, labels = made_up()
    log_probabilities = scores.log_softmax(logits)
    result = scores.score(log_probabilities, labels, NAMES)
    confusion = scores.confusion_matrix(labels, logits.argmax(axis=1), 5)
    probabilities = np.exp(log_probabilities)
    correct = logits.argmax(axis=1) == labels
    macro = precision_recall_fscore_support(labels, logits.argmax(axis=1), average="macro")

    assert result.accuracy == pytest.approx(correct.mean(), abs=1e-6)
    assert (result.macro_precision, result.macro_recall, result.macro_f1) == pytest.approx(
        macro[:3], abs=1e-6
    )
    assert result.loss == pytest.approx(log_loss(labels, probabilities), abs=1e-6)
    assert result.expected_calibration_error == pytest.approx(
        reference.expected_calibration_error(
            probabilities.max(axis=1).tolist(), correct.tolist(), 15
        ),
        abs=1e-6,
    )
    assert [list(row) for row in result.confusion_matrix] == confusion.tolist()
    assert [entry.support for entry in result.per_class.values()] == np.bincount(labels).tolist()
    assert list(result.per_class) == NAMES
    coverages, risks = zip(*result.risk_coverage, strict=True)
    assert coverages == pytest.approx(np.arange(1, 21) / 20)
    assert risks[-1] == pytest.approx(1 - result.accuracy, abs=2e-6)
    most_confident = np.argsort(-probabilities.max(axis=1))[:25]
    assert risks[0] == pytest.approx(1 - correct[most_confident].mean(), abs=1e-6)


@given(predictions())
def test_json_round_trip(sample: tuple[np.ndarray, np.ndarray]) -> None:
    log_probabilities, labels = sample
    names = [f"class {number}" for number in range(log_probabilities.shape[1])]
    result = scores.score(log_probabilities, labels, names)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert scores.Scores.from_dict(json.loads(text)) == result


def test_from_dict_names_the_fields_that_differ() -> None:
    logits, labels = made_up()
    values = scores.score(scores.log_softmax(logits), labels, NAMES).to_dict()
    del values["loss"]
    with pytest.raises(ValueError, match=r"missing fields \['loss'\], unknown fields \['other'\]"):
        scores.Scores.from_dict(values | {"other": 1})


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([], [], "labels must be at least one integer"),
        ([0.0], [0], "labels must be at least one integer in one dimension, got float64"),
        ([0, 3], [0, 0], "labels must be from 0 to 2, got values from 0 to 3"),
        ([0, 1], [0, -1], "predictions must be from 0 to 2, got values from -1 to 0"),
        ([0, 1], [0], "equally many, got 2 and 1"),
    ],
)
def test_errors_say_what_was_got(labels: list[int], predictions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores.confusion_matrix(labels, predictions, 3)


def test_errors_of_logits() -> None:
    with pytest.raises(ValueError, match=r"got \(0, 3\)"):
        scores.log_softmax(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="nan or infinity"):
        scores.log_softmax([[0.0, math.nan]])
    with pytest.raises(ValueError, match=r"\(samples, 5\).*got \(2, 3\)"):
        scores.score(np.zeros((2, 3)), [0, 1], NAMES)


def test_twins_by_hand() -> None:
    # Right, wrong, right, right; the second and third are in train.
    log_probabilities = np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    labels, is_twin = [0, 1, 1, 0], np.array([False, True, True, False])
    assert scores.score_twins(log_probabilities, labels, is_twin) == scores.TwinScores(
        num_twins=2, accuracy=0.75, accuracy_without_twins=1.0, accuracy_of_twins=0.5
    )
    none = scores.score_twins(log_probabilities, labels, np.zeros(4, dtype=bool))
    assert none == scores.TwinScores(0, 0.75, 0.75, None)
    every = scores.score_twins(log_probabilities, labels, np.ones(4, dtype=bool))
    assert every == scores.TwinScores(4, 0.75, None, 0.75)
    with pytest.raises(ValueError, match="got 4, 4 and 2"):
        scores.score_twins(log_probabilities, labels, np.ones(2, dtype=bool))


def test_twin_scores_equal_scikit_learn() -> None:
    logits, labels = made_up()
    is_twin = np.random.default_rng(2).random(len(labels)) < 0.1
    result = scores.score_twins(scores.log_softmax(logits), labels, is_twin)
    predicted = logits.argmax(axis=1)
    assert result.accuracy == pytest.approx(accuracy_score(labels, predicted), abs=1e-6)
    assert result.accuracy_without_twins == pytest.approx(
        accuracy_score(labels[~is_twin], predicted[~is_twin]), abs=1e-6
    )
    assert result.accuracy_of_twins == pytest.approx(
        accuracy_score(labels[is_twin], predicted[is_twin]), abs=1e-6
    )


def test_unanimous_votes_are_the_panels_too() -> None:
    # Every panel of ten is the first one: KL = ln(1 / ((10 + 1/4) / 11)).
    votes = np.diag([10, 10, 10, 10])
    panel = scores.score_panel(votes)
    assert panel == scores.VoteScores(1.0, pytest.approx(math.log(11 / 10.25), abs=1e-6))


def test_a_panel_in_closed_form() -> None:
    # Three votes, two for the first class: a panel draws k ~ Binomial(3, 2/3) for it, whose
    # majority is right for k of 2 and 3.
    chances = [1 / 27, 6 / 27, 12 / 27, 8 / 27]
    divergences = [
        2 / 3 * math.log(2 / 3 / ((k + 1 / 2) / 4))
        + 1 / 3 * math.log(1 / 3 / ((3 - k + 1 / 2) / 4))
        for k in range(4)
    ]
    panel = scores.score_panel([[2, 1], [1, 2]] * 500)
    assert panel.accuracy == pytest.approx(20 / 27, abs=0.006)
    assert panel.divergence == pytest.approx(np.dot(chances, divergences), abs=0.006)


def test_ties_of_a_panel_are_broken_at_random() -> None:
    # Of four votes the first class has three: P(k > 2) + P(k = 2) / 2 with k ~ Binomial(4, 3/4).
    right = (81 + 108) / 256 + 54 / 256 / 2
    for votes in ([[3, 1]] * 1000, [[1, 3]] * 1000):
        assert scores.score_panel(votes).accuracy == pytest.approx(right, abs=0.006)


def test_ceiling_by_hand() -> None:
    # Unanimous and labelled so; unanimous and labelled otherwise; tied; without votes.
    votes = [[4, 0], [0, 4], [1, 1], [0, 0]]
    ceiling = scores.vote_ceiling([0, 0, 1, 1], votes)
    assert (ceiling.num_voted, ceiling.num_majorities) == (3, 2)
    assert ceiling.label_agreement == 0.5
    assert ceiling.panel.accuracy == 1.0
    assert scores.vote_ceiling([0, 0, 1, 1], votes) == ceiling


def test_vote_scores_are_rounded_votes() -> None:
    logits, _ = made_up(50)
    votes = np.random.default_rng(1).integers(0, 4, logits.shape)
    log_probabilities = scores.log_softmax(logits)
    result = scores.score_votes(log_probabilities, votes)
    single = [row for row in range(50) if (votes[row] == votes[row].max()).sum() == 1]
    assert result.accuracy == pytest.approx(
        accuracy_score(votes[single].argmax(axis=1), logits[single].argmax(axis=1)), abs=1e-6
    )
    expected = [
        entropy(row, probabilities)
        for row, probabilities in zip(votes, np.exp(log_probabilities), strict=True)
    ]
    assert result.divergence == pytest.approx(np.mean(expected), abs=1e-6)


def test_errors_of_panels() -> None:
    with pytest.raises(ValueError, match="whole numbers, got fractions"):
        scores.score_panel([[0.5, 0.5]])
