"""Area under the risk-coverage curve: the mean error rate among the n most confident samples, over
all n.
"""

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

DESCRIPTION = (
    "Area under the risk-coverage curve: the mean error rate among the n most confident "
    "samples, over all n."
)
CITATION = """\
@inproceedings{geifman2019bias,
  title={Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers},
  author={Geifman, Yonatan and Uziel, Guy and El-Yaniv, Ran},
  booktitle={International Conference on Learning Representations},
  year={2019}
}
"""
INPUTS = """
Args:
    predictions: probabilities (samples, classes), each row a distribution.
    references: true classes, integers from 0.

Returns:
    risk_coverage_area, in [0, 1], lower is better.
"""


class RiskCoverageArea(evaluate.Metric):
    """Risk-coverage area as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        confidences, correct = _confidences(predictions, references)
        order = np.argsort(-confidences, kind="stable")
        errors = np.cumsum(~correct[order])
        # Among equal confidences errors grow evenly.
        ends = np.append(np.flatnonzero(np.diff(confidences[order])), len(order) - 1)
        taken = np.arange(1, len(order) + 1)
        expected = np.interp(taken, np.append(0, ends + 1), np.append(0, errors[ends]))
        return {"risk_coverage_area": float((expected / taken).mean())}


def _confidences(
    predictions: list[list[float]], references: list[int]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    probabilities = np.asarray(predictions, dtype=np.float64)
    if probabilities.ndim != 2 or not probabilities.size:
        raise ValueError(
            f"predictions must be samples x classes, both at least 1, got {probabilities.shape}"
        )
    if not ((probabilities >= 0).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("predictions must be probabilities: at least 0, with a sum of 1 a sample")
    true = np.asarray(references)
    if true.min() < 0 or true.max() >= probabilities.shape[1]:
        raise ValueError(
            f"references must be from 0 to {probabilities.shape[1] - 1}, "
            f"got values from {true.min()} to {true.max()}"
        )
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == true
