"""Compare margins and losses by one command:

    python training/compare.py training/recipes/compare/fer2013.yaml \\
        --margins none,mam --losses ce,sce --seeds 3 --output runs/fer2013-two-by-two

Every pair of a margin and a loss is trained by the recipe: with the same budget, from the same
seeds, which means the same initial weights, and on the same batches in the same order. A margin or
loss may bring arguments, as in `mam:differentiable=true`. Validation alone is read.

The results are one JSON file, with every run's curves, and plots beside it, written anew after each
run; all pairs get their first seed before any gets its second. The same command again goes on where
it was stopped: runs that the file has are not trained again, nor are those of other pairs lost. The
output folder holds the checkpoints of an unfinished run only.
"""

import gc
import itertools
import json
import re
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from emosynthnet_hf.analysis.curves import curves
from emosynthnet_hf.analysis.style import COLOURS, MARKERS, new_figure, save_figure
from emosynthnet_hf.data import PackedImages
from emosynthnet_hf.evaluation import dataset_name, fingerprint
from emosynthnet_hf.margin_emosynthnet import (
    MARGIN_FUNCTIONS,
    MarginLoss,
    as_targets,
    mam_margin,
)
from lab_log import differences
from recipe import Recipe, load_recipe, recipe_from
from train import (
    epoch_rows,
    fit,
    initial_model,
    logged_to,
    model_config,
    pack,
    recipe_parser,
    write_json,
)
from trainer import keep_freed_memory

# One entry an epoch, so that a train loss is the mean over exactly that epoch's steps.
COMPARISON_DEFAULTS: dict[str, Any] = {"logging_strategy": "epoch", "report_to": []}
# Of each pair over its seeds: where in a run's curves each score is.
SCORES = {
    "accuracy": "validation_accuracy",
    "loss": "validation_loss",
    "macro_f1": "validation_macro_f1",
}
MARGIN_KINDS = ("margin_by_class", "log_odds_by_class")
DECIMALS = 6
LINES = ("-", "--", ":")


@dataclass(frozen=True)
class Choice:
    """A margin or a loss: its name, and keyword arguments other than its defaults.

    `text` is how it is written, `mam:epsilon=0.1:maximum=2` say, with values in YAML.
    """

    text: str
    name: str = field(init=False)
    kwargs: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        name, *arguments = self.text.strip().split(":")
        kwargs = {}
        for argument in arguments:
            key, separator, value = argument.partition("=")
            if not (key and separator):
                raise ValueError(
                    f"an argument must be name=value, got {argument!r} in {self.text!r}"
                )
            kwargs[key] = yaml.safe_load(value)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "kwargs", kwargs)


@dataclass(frozen=True)
class Pair:
    """A margin with a loss.

    Raises:
        ValueError: an unknown name or argument, or a value out of range.
    """

    margin: Choice
    loss: Choice

    def __post_init__(self) -> None:
        MarginLoss(
            2,
            self.margin.name,
            self.loss.name,
            margin_kwargs=self.margin.kwargs,
            loss_kwargs=self.loss.kwargs,
        )

    @property
    def name(self) -> str:
        return f"{self.margin.text}/{self.loss.text}"

    def apply(self, recipe: Recipe, seed: int) -> Recipe:
        """The recipe with this margin and loss, and a seed."""
        model = recipe.model | {
            "margin": self.margin.name,
            "margin_kwargs": self.margin.kwargs,
            "loss": self.loss.name,
            "loss_kwargs": self.loss.kwargs,
        }
        training = COMPARISON_DEFAULTS | recipe.training | {"seed": seed}
        return replace(recipe, model=model, training=training)


def parse_pairs(pairs: str | None, margins: str | None, losses: str | None) -> list[Pair]:
    """`none/ce,mam/sce`, or all of `none,mam` with all of `ce,sce`.

    Raises:
        ValueError: neither or both of the two ways, a pair that is given twice, or one that cannot
            be: see [`Pair`].
    """
    if pairs is not None and margins is None and losses is None:
        written = [part.split("/") for part in pairs.split(",")]
        wrong = ["/".join(parts) for parts in written if len(parts) != 2]
        if wrong:
            raise ValueError(f"a pair must be MARGIN/LOSS, got {', '.join(wrong)}")
    elif pairs is None and margins is not None and losses is not None:
        written = [list(both) for both in itertools.product(margins.split(","), losses.split(","))]
    else:
        raise ValueError("give either --pairs, or both --margins and --losses")
    parsed = [Pair(Choice(margin.strip()), Choice(loss.strip())) for margin, loss in written]
    names = [pair.name for pair in parsed]
    if len(set(names)) < len(names):
        raise ValueError(f"each pair may be given once, got {', '.join(names)}")
    return parsed


def compare(
    recipe: Recipe, data: str, pairs: Sequence[Pair], num_seeds: int, output: Path, results: Path
) -> None:
    """Train every pair with every seed, as far as that is not done, and write the results.

    Args:
        recipe: the experiment; its margin, its loss and their arguments are replaced. Its seed is
            the first.
        data: Hub id or folder, usually `recipe.data.id`.
        pairs: what is compared.
        num_seeds: runs of each pair, at least 1.
        output: folder of the unfinished run.
        results: JSON file; plots are written beside it. What it has is kept.

    Raises:
        ValueError: data or recipe that cannot be used, or results or an unfinished run of another
            recipe or of other data; nothing has been trained then.
    """
    if num_seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {num_seeds}")
    if recipe.average_with:
        raise ValueError("average_with must be left out of a comparison, which averages nothing")
    own = ("margin", "margin_kwargs", "loss", "loss_kwargs")
    shared = {name: value for name, value in recipe.model.items() if name not in own}
    recipe = replace(recipe, model=shared)
    stored = read_results(results, recipe)
    first = recipe.training.get("seed", 0)
    runs = [(seed, pair) for seed in range(first, first + num_seeds) for pair in pairs]
    for seed, pair in runs:
        _check_recipe(output / run_name(pair, seed), pair.apply(recipe, seed))
    packed = pack(recipe, data)
    about = data_record(data, packed)
    if stored:
        _check_same_data(results, stored["data"], about)
    for pair in pairs:
        with_pair = pair.apply(recipe, first)
        initial_model(with_pair, model_config(with_pair, packed["train"].label_names))
    for seed, pair in runs:
        _check_data(output / run_name(pair, seed), about)

    records = {pair["pair"]: list(pair["runs"]) for pair in stored.get("pairs", [])}
    for seed, pair in runs:
        of_pair = records.setdefault(pair.name, [])
        folder = output / run_name(pair, seed)
        if all(record["seed"] != seed for record in of_pair):
            of_pair.append(run(pair, pair.apply(recipe, seed), packed, folder))
            of_pair.sort(key=lambda record: record["seed"])
            summary = {"recipe": asdict(recipe), "data": about, **summarize(records)}
            results.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(results, summary)
            draw_curves(summary, results.with_suffix(".png"))
            draw_margins(summary, results.with_name(results.stem + "-margins.png"))
        # Only now: until the results were written, the folder was all there was of the run.
        shutil.rmtree(folder, ignore_errors=True)


def read_results(path: Path, recipe: Recipe) -> dict[str, Any]:
    """What a comparison by this recipe has found so far; empty without a file.

    Raises:
        ValueError: a comparison by another recipe.
    """
    if not path.is_file():
        return {}
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = differences(recipe, recipe_from(stored["recipe"], str(path)))
    if changed:
        raise ValueError(
            f"{path} holds a comparison by another recipe, it differs in {', '.join(changed)}: "
            f"give another --results"
        )
    return stored


def run(
    pair: Pair, recipe: Recipe, packed: dict[str, PackedImages], folder: Path
) -> dict[str, Any]:
    """One training, from the last checkpoint in its folder if there is one: budget, curves and, of
    the best epoch's weights, the margins by class."""
    for checkpoint in folder.glob("checkpoint-*"):
        # The state is written last: without it, the run was stopped while it saved.
        if not (checkpoint / "trainer_state.json").is_file():
            shutil.rmtree(checkpoint)
    trainer = fit(recipe, packed, folder, resume=True)
    logits = trainer.predict(packed["validation"], metric_key_prefix="validation").predictions
    if isinstance(logits, tuple):
        logits = logits[0]
    rows = epoch_rows(trainer.state.log_history)
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    columns = curves(rows)
    columns["validation_macro_f1"] = [row["validation"]["macro_f1"] for row in rows]
    values = {
        "seed": recipe.training["seed"],
        "steps": trainer.state.global_step,
        "minutes": round(rows[-1]["run_seconds"] / 60, 2),
        "cores": environment["cores"],
        "threads": environment["threads"],
        "bfloat16": environment["bfloat16"],
        "commit": environment["commit"],
        "versions": {"python": environment["python"], **environment["libraries"]},
        "curves": {
            name: [round(value, DECIMALS) for value in column] for name, column in columns.items()
        },
        **{
            kind: {label: round(value, DECIMALS) for label, value in by_class.items()}
            for kind, by_class in margins_by_class(
                pair.margin, logits, packed["validation"]
            ).items()
        },
    }
    del trainer
    gc.collect()
    return values


def run_name(pair: Pair, seed: int) -> str:
    """Name of a run's folder."""
    return re.sub(r"[^\w.-]+", "-", f"{pair.name}-seed{seed}")


def data_record(data: str, packed: Mapping[str, PackedImages]) -> dict[str, Any]:
    """Name, labels, and for each split the number of pictures, in all and by class, and its
    hash."""
    label_names = packed["train"].label_names
    record: dict[str, Any] = {"name": dataset_name(data), "label_names": label_names}
    for name, images in packed.items():
        counts = torch.bincount(images.labels, minlength=len(label_names)).tolist()
        record[name] = {
            "images": len(images),
            "images_by_class": counts,
            "sha256": fingerprint(images),
        }
    return record


def summarize(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Budget, and for each pair its scores over the seeds, margins by class and runs."""
    everything = [record for runs in records.values() for record in runs]
    budget = {
        "epochs": everything[0]["curves"]["epoch"][-1],
        "steps": everything[0]["steps"],
        "minutes": round(sum(record["minutes"] for record in everything), 1),
    }
    summaries = []
    for name, runs in records.items():
        if not runs:
            continue
        last = {
            score: [run["curves"][column][-1] for run in runs] for score, column in SCORES.items()
        }
        best = [max(run["curves"]["validation_accuracy"]) for run in runs]
        margins = {
            kind: {label: spread([run[kind][label] for run in runs]) for label in runs[0][kind]}
            for kind in MARGIN_KINDS
            if kind in runs[0]
        }
        summaries.append(
            {
                "pair": name,
                "last_epoch": {score: spread(values) for score, values in last.items()},
                "best_epoch": {"accuracy": spread(best)},
                **margins,
                "runs": list(runs),
            }
        )
    return {"budget": budget, "pairs": summaries}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (with n - 1; None for one value) and the values themselves."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": round(statistics.fmean(values), DECIMALS),
        "standard_deviation": None if deviation is None else round(deviation, DECIMALS),
        "values": [round(value, DECIMALS) for value in values],
    }


def margins_by_class(
    margin: Choice, logits: np.ndarray[Any, Any], validation: PackedImages
) -> dict[str, dict[str, float]]:
    """Mean margin by class of a MAM margin; nothing for the others.

    `margin_by_class` is the margin of the formula (eq. 4.14), for `mam` and `mam_all`.
    `log_odds_by_class` is by how much the margin lowers log p / (1 - p) of the label's class: for
    `mam` and `mam_verbatim` the margin itself, for the forms of Figure 4.1 what is left of it when
    the ratios have been divided by their sum. Classes without a picture are left out.

    Args:
        margin: the one that was trained with.
        logits: (N, K) float, of the validation split.
        validation: its labels.
    """
    if not margin.name.startswith("mam"):
        return {}
    scores = torch.from_numpy(logits).double()
    labels = validation.labels
    with_margin = MARGIN_FUNCTIONS[margin.name](scores, as_targets(labels, scores), **margin.kwargs)
    samples = {"log_odds_by_class": _log_odds(scores, labels) - _log_odds(with_margin, labels)}
    if margin.name in ("mam", "mam_all"):
        samples["margin_by_class"] = mam_margin(scores, **margin.kwargs).squeeze(-1)
    present = [
        (number, name)
        for number, name in enumerate(validation.label_names)
        if (labels == number).any()
    ]
    return {
        kind: {name: values[labels == number].mean().item() for number, name in present}
        for kind, values in samples.items()
    }


def _log_odds(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log p_y / (1 - p_y) of logits or log-probabilities (N, K) -> (N,)."""
    own = labels.unsqueeze(-1)
    rest = torch.logsumexp(scores.scatter(-1, own, -torch.inf), dim=-1)
    return scores.gather(-1, own).squeeze(-1) - rest


def draw_curves(summary: Mapping[str, Any], path: Path) -> None:
    """Validation accuracy on the left, loss on the right, over epochs: means, and a standard
    deviation over the seeds to each side."""
    figure, axes = new_figure(11, 4.2, num_axes=2)
    for number, pair in enumerate(summary["pairs"]):
        epochs = pair["runs"][0]["curves"]["epoch"]
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": LINES[number // len(COLOURS) % len(LINES)],
        }
        for axis, column, factor in (
            (axes[0], "validation_accuracy", 100.0),
            (axes[1], "validation_loss", 1.0),
        ):
            # (seeds, epochs)
            values = factor * np.array([run["curves"][column] for run in pair["runs"]])
            mean = values.mean(axis=0)
            axis.plot(
                epochs,
                mean,
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                label=pair["pair"],
                **look,
            )
            if len(values) > 1:
                deviation = values.std(axis=0, ddof=1)
                axis.fill_between(
                    epochs, mean - deviation, mean + deviation, color=look["color"], alpha=0.15
                )
    axes[0].set_ylabel("validation accuracy (%)")
    axes[1].set_ylabel("validation cross-entropy (nats)")
    low, high = axes[1].get_ylim()
    if low > 0 and high > 10 * low:
        axes[1].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(axis="y", alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(_title(summary), fontsize="medium")
    save_figure(figure, path)


def draw_margins(summary: Mapping[str, Any], path: Path) -> None:
    """Mean margin by class, from the class with the fewest training pictures to the one with the
    most, with a standard deviation over the seeds; nothing without a margin that varies."""
    pairs = [pair for pair in summary["pairs"] if "margin_by_class" in pair]
    if not pairs:
        return
    figure, (axis,) = new_figure(9.5, 3.8)
    names, counts = summary["data"]["label_names"], summary["data"]["train"]["images_by_class"]
    order = [
        number for number in np.argsort(counts) if names[number] in pairs[0]["margin_by_class"]
    ]
    for number, pair in enumerate(pairs):
        values = [pair["margin_by_class"][names[place]] for place in order]
        axis.errorbar(
            np.arange(len(order)) + 0.08 * (number - (len(pairs) - 1) / 2),
            [value["mean"] for value in values],
            yerr=[value["standard_deviation"] or 0.0 for value in values],
            fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            capsize=3,
            label=pair["pair"],
        )
    axis.set_xticks(range(len(order)), [f"{names[place]}\n{counts[place]:,}" for place in order])
    axis.set_xlabel("class, and its number of training pictures")
    axis.set_ylabel("mean margin on validation (logits)")
    axis.grid(axis="y", alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(_title(summary), fontsize="medium")
    save_figure(figure, path)


def _title(summary: Mapping[str, Any]) -> str:
    seeds = max(len(pair["runs"]) for pair in summary["pairs"])
    return (
        f"{summary['data']['name']}, {summary['budget']['epochs']:g} epochs, "
        f"{seeds} seed{'s' if seeds > 1 else ''}"
    )


def _check_recipe(folder: Path, recipe: Recipe) -> None:
    stored = folder / "recipe.yaml"
    if stored.is_file():
        changed = differences(recipe, load_recipe(stored))
        if changed:
            raise ValueError(
                f"{folder} holds a run of another recipe, it differs in {', '.join(changed)}: "
                f"give another --output"
            )


def _check_data(folder: Path, about: Mapping[str, Any]) -> None:
    stored = folder / "environment.json"
    if stored.is_file():
        before = json.loads(stored.read_text(encoding="utf-8"))["data"]
        _check_same_data(folder, before, about)


def _check_same_data(path: Path, before: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    if any(before[name]["sha256"] != about[name]["sha256"] for name in ("train", "validation")):
        raise ValueError(f"{path} was made with other data: give another --output and --results")


def _write_whole(path: Path, values: Any) -> None:
    """Whoever is stopped in between leaves the file as it was."""
    part = path.with_name(path.name + ".part")
    write_json(part, values)
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python training/compare.py --help`."""
    parser = recipe_parser("Compare margins and losses.", "training/recipes/compare/")
    parser.add_argument("--margins", help="such as none,mam,mam:differentiable=true")
    parser.add_argument("--losses", help="such as ce,sce: each margin is tried with each loss")
    parser.add_argument("--pairs", help="instead of these two, such as none/ce,mam/sce")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each pair; default: 1")
    parser.add_argument("--output", type=Path, help="default: runs/compare-RECIPE")
    parser.add_argument("--results", type=Path, help="default: OUTPUT/comparison.json")
    options = parser.parse_args(arguments)
    output = options.output or Path("runs") / f"compare-{options.recipe.stem}"
    results = options.results or output / "comparison.json"
    try:
        pairs = parse_pairs(options.pairs, options.margins, options.losses)
        recipe = load_recipe(options.recipe, options.overrides)
        output.mkdir(parents=True, exist_ok=True)
        with logged_to(output / "compare.log"):
            data = options.data or recipe.data.id
            compare(recipe, data, pairs, options.seeds, output, results)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nwritten: {results}")
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
