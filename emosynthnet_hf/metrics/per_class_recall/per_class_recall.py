"""Of the samples of each class, the share predicted as it; 0 for a class without samples."""

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

DESCRIPTION = (
    "Of the samples of each class, the share predicted as it; 0 for a class without samples."
)
CITATION = ""
INPUTS = """
Args:
    predictions: predicted classes, integers from 0.
    references: true classes, integers from 0.
    label_names: names of the classes in order; by default "0", "1", ... up to the largest seen.

Returns:
    recall_<name> for each class, in [0, 1].
"""


class PerClassRecall(evaluate.Metric):
    """Per-class recall as an `evaluate` module."""

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
        self, predictions: list[int], references: list[int], label_names: list[str] | None = None
    ) -> dict[str, float]:
        predicted, true, num_labels = _checked(
            predictions, references, None if label_names is None else len(label_names)
        )
        hits = np.bincount(true[predicted == true], minlength=num_labels)
        counts = np.bincount(true, minlength=num_labels)
        names = label_names or [str(label) for label in range(num_labels)]
        return {
            f"recall_{name}": float(hit / max(count, 1))
            for name, hit, count in zip(names, hits, counts, strict=True)
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
