"""Counts of samples by true class (rows) and predicted class (columns)."""

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

DESCRIPTION = "Counts of samples by true class (rows) and predicted class (columns)."
CITATION = ""
INPUTS = """
Args:
    predictions: predicted classes, integers from 0.
    references: true classes, integers from 0.
    num_labels: number of classes; by default the largest class seen plus one.

Returns:
    confusion_matrix, a list of rows of counts.
"""


class ConfusionMatrix(evaluate.Metric):
    """Confusion matrix as an `evaluate` module."""

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
    ) -> dict[str, list[list[int]]]:
        predicted, true, num_labels = _checked(predictions, references, num_labels)
        counts = np.bincount(true * num_labels + predicted, minlength=num_labels**2)
        return {"confusion_matrix": counts.reshape(num_labels, num_labels).tolist()}


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
