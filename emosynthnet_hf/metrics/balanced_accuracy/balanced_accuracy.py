"""Mean recall over the classes that have samples."""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Mean recall over the classes that have samples."
CITATION = ""
INPUTS = """
Args:
    predictions: predicted classes, integers from 0.
    references: true classes, integers from 0.

Returns:
    balanced_accuracy, in [0, 1].
"""


class BalancedAccuracy(evaluate.Metric):
    """Balanced accuracy as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        if not references:
            raise ValueError("at least one sample is needed, got none")
        true = np.asarray(references)
        correct = np.equal(predictions, true)
        recalls = [correct[true == label].mean() for label in np.unique(true)]
        return {"balanced_accuracy": float(np.mean(recalls))}
