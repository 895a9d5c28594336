"""Accuracy, error, precision, recall and F1, as in Tables 3.3 and 3.4 of the thesis.

    python -m emosynthnet_hf.analysis.table RESULTS.json [RESULTS.json ...] --output docs/gallery

RESULTS.json is what `emosynthnet_hf.evaluation` wrote: nothing is computed again. Writes
`scores.md` and `scores.json`, a row for each view of each file.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation import EvaluationResult

COLUMNS = ("accuracy", "error", "precision", "recall", "F1")


def rows(results: Sequence[EvaluationResult]) -> list[dict[str, Any]]:
    """One dictionary for each view of each result; precision, recall and F1 are macro averages."""
    return [
        {
            "checkpoint": result.checkpoint,
            "dataset": result.dataset,
            "split": result.split,
            "view": view,
            "accuracy": scores.accuracy,
            "error": round(1 - scores.accuracy, 6),
            "precision": scores.macro_precision,
            "recall": scores.macro_recall,
            "F1": scores.macro_f1,
        }
        for result in results
        for view, scores in result.views.items()
    ]


def markdown(results: Sequence[EvaluationResult]) -> str:
    """The rows as a Markdown table, in %."""
    lines = [
        "Precision, recall and F1 are means over the classes (macro averages).",
        "",
        f"| checkpoint | data | split | view | {' | '.join(COLUMNS)} |",
        f"| --- | --- | --- | --- |{' --- |' * len(COLUMNS)}",
    ]
    for row in rows(results):
        cells = [row["checkpoint"], row["dataset"], row["split"], row["view"].replace("_", " ")]
        cells += [f"{row[column]:.2%}" for column in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python -m emosynthnet_hf.analysis.table --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m emosynthnet_hf.analysis.table",
        description="Write the scores of results files as one table.",
    )
    parser.add_argument(
        "results", type=Path, nargs="+", help="JSON files of emosynthnet_hf.evaluation"
    )
    parser.add_argument("--output", type=Path, default=Path(), help="folder; default: this one")
    options = parser.parse_args(arguments)
    try:
        results = [EvaluationResult.load(path) for path in options.results]
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "scores.md").write_text(markdown(results), encoding="utf-8")
    (options.output / "scores.json").write_text(
        json.dumps(rows(results), indent=1) + "\n", encoding="utf-8"
    )
    return 0


__all__ = ["COLUMNS", "main", "markdown", "rows"]


if __name__ == "__main__":
    sys.exit(main())
