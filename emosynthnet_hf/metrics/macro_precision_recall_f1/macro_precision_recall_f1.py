"""Precision, recall and F1, each the unweighted mean over classes; 0 where a class has no
denominator.
"""

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

DESCRIPTION = (
    "Precision, recall and F1, each the unweighted mean over classes; 0 where a class has "
    "no denominator."
)
CITATION = ""
INPUTS = """
Args:
    predictions: predicted classes, integers from 0.
    references: true classes, integers from 0.
    num_labels: number of classes; by default the largest class seen plus one.

Returns:
    macro_precision, macro_recall, macro_f1, in [0, 1].
"""


class MacroPrecisionRecallF1(evaluate.Metric):
    """Macro precision, recall and F1 as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions: list[int], references: list[int], num_labels: int | None = None
    ) -> dict[str, float]:
        predicted, true, num_labels = _checked(predictions, references, num_labels)
        hits = np.bincount(true[predicted == true], minlength=num_labels)
        predicted_counts = np.bincount(predicted, minlength=num_labels)
        true_counts = np.bincount(true, minlength=num_labels)
        return {
            "macro_precision": _mean_ratio(hits, predicted_counts),
            "macro_recall": _mean_ratio(hits, true_counts),
            "macro_f1": _mean_ratio(2 * hits, predicted_counts + true_counts),
        }


def _checked(
    predictions: list[int], references: list[int], num_labels: int | None
) -> tuple[IntArray, IntArray, int]:
    predicted, true = np.asarray(predictions), np.asarray(references)
    if not len(true):
        raise ValueError("at least one sample is needed, got none")
    largest = int(max(predicted.max(), true.max()))
    if num_labels is None:
        num_labels = largest + 1
    smallest = int(min(predicted.min(), true.min()))
    if smallest < 0 or largest >= num_labels:
        raise ValueError(
            f"classes must be from 0 to {num_labels - 1}, got values from {smallest} to {largest}"
        )
    return predicted, true, num_labels


def _mean_ratio(numerators: IntArray, denominators: IntArray) -> float:
    return float(np.where(denominators > 0, numerators / np.maximum(denominators, 1), 0.0).mean())
