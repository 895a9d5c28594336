"""Share of samples whose predicted class is the true one."""

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Share of samples whose predicted class is the true one."
CITATION = ""
INPUTS = """
Args:
    predictions: predicted classes, integers from 0.
    references: true classes, integers from 0.

Returns:
    accuracy, in [0, 1].
"""


class Accuracy(evaluate.Metric):
    """Accuracy as an `evaluate` module."""

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
        return {"accuracy": float(np.equal(predictions, references).mean())}
