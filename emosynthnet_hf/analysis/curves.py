"""Training curves from the log of a run, as in Figures 3.5 and 5.2 of the thesis.

    python -m emosynthnet_hf.analysis.curves CHECKPOINT/training/training_log.json

The log is what `training/train.py` wrote, one entry an epoch. Writes `curves-<name>.png` and
`.json`. Needs `pip install "emosynthnet-hf[train]"`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .style import COLOURS, file_name, new_figure, save_figure


def curves(log: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Columns of a training log: epoch, train_loss, validation_loss, validation_accuracy.

    Raises:
        ValueError: an empty log, or an entry that lacks one of these.
    """
    if not log:
        raise ValueError("the log must hold at least one epoch, got none")
    try:
        return {
            "epoch": [entry["epoch"] for entry in log],
            "train_loss": [entry["train_loss"] for entry in log],
            "validation_loss": [entry["validation"]["loss"] for entry in log],
            "validation_accuracy": [entry["validation"]["accuracy"] for entry in log],
        }
    except KeyError as error:
        raise ValueError(f"every entry of the log must hold {error}") from error


def draw(columns: dict[str, list[float]], name: str, path: Path) -> None:
    """Losses on the left, validation accuracy on the right, over epochs, as PNG."""
    figure, (losses, accuracies) = new_figure(9.5, 3.8, num_axes=2)
    epochs = columns["epoch"]
    # A trained loss with a margin is on a scale of its own: the two lines need not meet.
    losses.plot(epochs, columns["train_loss"], color=COLOURS[0], label="train (as trained)")
    losses.plot(
        epochs,
        columns["validation_loss"],
        color=COLOURS[1],
        linestyle="--",
        label="validation (cross-entropy, nats)",
    )
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    percentages = [100 * value for value in columns["validation_accuracy"]]
    best = max(range(len(percentages)), key=percentages.__getitem__)
    accuracies.plot(epochs, percentages, color=COLOURS[1], linestyle="--")
    accuracies.plot(epochs[best], percentages[best], "o", color=COLOURS[1])
    accuracies.set_title(
        f"best: {percentages[best]:.2f} % in epoch {epochs[best]:g}", fontsize="small"
    )
    accuracies.set_ylabel("validation accuracy (%)")
    for axis in (losses, accuracies):
        axis.set_xlabel("epoch")
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(name, fontsize="medium")
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python -m emosynthnet_hf.analysis.curves --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m emosynthnet_hf.analysis.curves",
        description="Draw loss and accuracy over epochs.",
    )
    parser.add_argument("log", type=Path, help="training_log.json")
    parser.add_argument(
        "--name", help="of the run; default: the checkpoint's folder, above training/"
    )
    parser.add_argument("--output", type=Path, default=Path(), help="folder; default: this one")
    options = parser.parse_args(arguments)
    parents = [parent.name for parent in options.log.resolve().parents]
    name = options.name or next(parent for parent in parents if parent != "training")
    path = options.output / file_name("curves", name)
    try:
        columns = curves(json.loads(options.log.read_text(encoding="utf-8")))
        draw(columns, name, path.with_name(path.name + ".png"))
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path.with_name(path.name + ".json").write_text(json.dumps(columns) + "\n", encoding="utf-8")
    return 0


__all__ = ["curves", "draw", "main"]


if __name__ == "__main__":
    sys.exit(main())
