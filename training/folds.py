"""Cross-validate a recipe in ten folds by subject: python training/folds.py RECIPE --data ckplus

Trains ten times, each time from the recipe's start on eight folds, takes the best epoch by a ninth,
and reads the tenth once. The output folder holds the runs, `fold-0` to `fold-9`, and `folds.json`:
the scores of each fold, their mean and spread, and the scores of all test folds together. Other
arguments as for `train.py`; `--resume` goes on with a stopped cross-validation.
"""

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from emosynthnet_hf.data import FOLDS
from emosynthnet_hf.evaluation import SINGLE_CROP, dataset_name, evaluate_checkpoint
from emosynthnet_hf.scores import accuracy, balanced_accuracy, f1
from recipe import Recipe
from train import main, train, write_json
from trainer import keep_freed_memory

# Of each fold; macro F1 is given for all folds together, as a class may be missing from one.
SCORES = ("accuracy", "balanced_accuracy", "loss")


def cross_validate(recipe: Recipe, data: str, output: Path, *, resume: bool = False) -> Path:
    """Train and test on each of the ten folds, and return the path of `folds.json`.

    It holds `folds` (number of test pictures, scores and confusion matrix of each), `mean` and
    `standard_deviation` (with n - 1) of each score over the ten, and `pooled`, the scores of the
    ten confusion matrices added up.

    Args:
        recipe: the experiment; `data.fold` is replaced by 0 to 9.
        data: Hub id or folder, usually `recipe.data.id`.
        output: folder of the runs.
        resume: continue each fold from its last checkpoint, if there is one.

    Raises:
        ValueError: data or recipe that cannot be used, such as files that name no subject.
    """
    rows = []
    for fold in range(FOLDS):
        part = replace(recipe, data=replace(recipe.data, fold=fold))
        final = train(part, data, output / f"fold-{fold}", resume=resume)
        result = evaluate_checkpoint(final, data, "test", progress=False, **part.data.reading())
        scores = result.views[SINGLE_CROP].to_dict()
        rows.append(
            {"fold": fold, "num_samples": result.num_samples}
            | {name: scores[name] for name in (*SCORES, "confusion_matrix")}
        )
    values = {name: [row[name] for row in rows] for name in SCORES}
    confusion = np.sum([row["confusion_matrix"] for row in rows], axis=0)
    summary = {
        "data": dataset_name(data),
        "label_names": list(result.label_names),
        "mean": {name: round(statistics.mean(values[name]), 6) for name in SCORES},
        "standard_deviation": {name: round(statistics.stdev(values[name]), 6) for name in SCORES},
        "pooled": {
            "num_samples": int(confusion.sum()),
            "accuracy": round(accuracy(confusion), 6),
            "balanced_accuracy": round(balanced_accuracy(confusion), 6),
            "macro_f1": round(float(f1(confusion).mean()), 6),
            "confusion_matrix": confusion.tolist(),
        },
        "folds": rows,
    }
    path = output / "folds.json"
    write_json(path, summary)
    return path


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(run=cross_validate, description="Cross-validate a recipe in ten folds."))
