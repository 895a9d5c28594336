"""Agreement with several people's votes: accuracy against their majority, KL divergence from their
shares.
"""

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

DESCRIPTION = (
    "Agreement with several people's votes: accuracy against their majority, KL "
    "divergence from their shares."
)
CITATION = ""
INPUTS = """
Args:
    predictions: probabilities (samples, classes), each row a distribution.
    references: votes (samples, classes), how many people chose each class, in the same order.

Returns:
    vote_accuracy in [0, 1], and vote_divergence in nats, at least 0.
"""


class Votes(evaluate.Metric):
    """Accuracy and KL against votes as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("float64")),
                }
            ),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]]
    ) -> dict[str, float]:
        probabilities, votes = _checked(predictions), np.asarray(references, dtype=np.float64)
        if votes.shape != probabilities.shape or (votes < 0).any():
            raise ValueError(
                f"references must be votes of at least 0 in the shape of the predictions, "
                f"{probabilities.shape}, got shape {votes.shape}"
            )
        single = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
        if not single.any():
            raise ValueError("votes must single out a class for at least one sample, got ties only")
        voted = votes.sum(axis=1) > 0
        shares = votes[voted] / votes[voted].sum(axis=1, keepdims=True)
        # 0 ln 0 = 0; a probability that was rounded to 0 counts as the smallest float.
        log_shares = np.log(np.where(shares > 0, shares, 1.0))
        log_probabilities = np.log(np.maximum(probabilities[voted], np.finfo(np.float64).tiny))
        return {
            "vote_accuracy": float(
                (votes.argmax(axis=1) == probabilities.argmax(axis=1))[single].mean()
            ),
            "vote_divergence": float(
                (shares * (log_shares - log_probabilities)).sum(axis=1).mean()
            ),
        }


def _checked(predictions: list[list[float]]) -> FloatArray:
    probabilities = np.asarray(predictions, dtype=np.float64)
    if probabilities.ndim != 2 or not probabilities.size:
        raise ValueError(
            f"predictions must be samples x classes, both at least 1, got {probabilities.shape}"
        )
    if not ((probabilities >= 0).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("predictions must be probabilities: at least 0, with a sum of 1 a sample")
    return probabilities
