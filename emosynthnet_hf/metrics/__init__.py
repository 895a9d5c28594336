"""Self-contained `evaluate` modules, one a folder: `evaluate.load(metric_path("accuracy"))`.

Each folder is also the Space of its metric, so its module imports nothing of this package.
"""

from pathlib import Path

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "confusion_matrix",
    "expected_calibration_error",
    "macro_precision_recall_f1",
    "per_class_recall",
    "risk_coverage_area",
    "votes",
)


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`, which needs no network with it.

    Raises:
        ValueError: an unknown name.
    """
    if name not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r}")
    return str(Path(__file__).parent / name)


__all__ = ["METRICS", "metric_path"]
