"""Confusion matrix, counts and shares, as in Figures 3.6, 5.3 and 5.5 of the thesis.

    python -m emosynthnet_hf.analysis.confusion RESULTS.json --output docs/gallery

RESULTS.json is what `emosynthnet_hf.evaluation` wrote: nothing is computed again. Writes
`confusion-<checkpoint>-<dataset>-<split>.png` and `.json`. Needs
`pip install "emosynthnet-hf[train]"`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..evaluation import FLIP_AVERAGING, SINGLE_CROP, EvaluationResult
from ..scores import FloatArray, IntArray
from .style import SHADES, file_name, new_figure, save_figure


def row_shares(confusion: IntArray) -> FloatArray:
    """Counts (K, K) -> shares of each true class, so that the diagonal is recall; 0 without any."""
    totals = confusion.sum(axis=1, keepdims=True)
    return np.where(totals > 0, confusion / np.maximum(totals, 1), 0.0)


def draw(result: EvaluationResult, view: str, path: Path) -> None:
    """Counts on the left, shares of each true class in % on the right, as PNG."""
    counts = np.array(result.views[view].confusion_matrix)
    percentages = 100 * row_shares(counts)
    names = result.label_names
    side = 1.6 + 0.55 * len(names)
    figure, axes = new_figure(2 * side, side + 0.3, num_axes=2)
    # The classes' sizes differ: both panels are shaded by share, or the largest would be all.
    for axis, values, title in zip(
        axes, (counts, percentages), ("pictures", "% of the true class"), strict=True
    ):
        axis.imshow(percentages, cmap=SHADES, vmin=0, vmax=100)
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if percentages[row, column] > 55 else "black"
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        axis.set_title(title, fontsize="medium")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.suptitle(
        f"{result.checkpoint}, {result.dataset} {result.split}, {result.num_samples:,} pictures, "
        f"{view.replace('_', ' ')}: accuracy {result.views[view].accuracy:.2%}",
        fontsize="medium",
    )
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python -m emosynthnet_hf.analysis.confusion --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m emosynthnet_hf.analysis.confusion",
        description="Draw the confusion matrix of a results file.",
    )
    parser.add_argument("results", type=Path, help="JSON of emosynthnet_hf.evaluation")
    parser.add_argument(
        "--view",
        choices=(SINGLE_CROP, FLIP_AVERAGING),
        default=SINGLE_CROP,
        help="default: %(default)s",
    )
    parser.add_argument("--output", type=Path, default=Path(), help="folder; default: this one")
    options = parser.parse_args(arguments)
    try:
        result = EvaluationResult.load(options.results)
        if options.view not in result.views:
            raise ValueError(f"{options.results} has no view {options.view}: evaluate with --flip")
        path = options.output / file_name(
            "confusion", result.checkpoint, result.dataset, result.split
        )
        draw(result, options.view, path.with_name(path.name + ".png"))
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = np.array(result.views[options.view].confusion_matrix)
    values = {
        "checkpoint": result.checkpoint,
        "model_sha256": result.model_sha256,
        "dataset": result.dataset,
        "split": result.split,
        "view": options.view,
        "label_names": result.label_names,
        "counts": counts.tolist(),
        "shares_of_true_class": row_shares(counts).round(6).tolist(),
    }
    path.with_name(path.name + ".json").write_text(json.dumps(values) + "\n", encoding="utf-8")
    return 0


__all__ = ["draw", "main", "row_shares"]


if __name__ == "__main__":
    sys.exit(main())
