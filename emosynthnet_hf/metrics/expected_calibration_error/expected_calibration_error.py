"""Mean distance of confidence and accuracy over equal-width bins of the confidence."""

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

DESCRIPTION = "Mean distance of confidence and accuracy over equal-width bins of the confidence."
CITATION = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={International Conference on Machine Learning},
  year={2017}
}
"""
INPUTS = """
Args:
    predictions: probabilities (samples, classes), each row a distribution.
    references: true classes, integers from 0.
    num_bins: number of equal-width bins of the confidence.

Returns:
    expected_calibration_error, in [0, 1].
"""


class ExpectedCalibrationError(evaluate.Metric):
    """Expected calibration error as an `evaluate` module."""

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

    def _compute(
        self, predictions: list[list[float]], references: list[int], num_bins: int = 15
    ) -> dict[str, float]:
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, got {num_bins}")
        confidences, correct = _confidences(predictions, references)
        edges = np.arange(num_bins + 1) / num_bins
        bins = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, num_bins - 1)
        gaps = np.bincount(bins, weights=correct - confidences, minlength=num_bins)
        return {"expected_calibration_error": float(np.abs(gaps).sum() / len(confidences))}


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
