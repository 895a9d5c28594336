"""Write the card of a checkpoint, and the figures of the README, from the checkpoint's own files.

    python model_card/build.py checkpoints/NAME [--readme README.md]

Every number comes from `results/*.json`, which `emosynthnet_hf.evaluation` wrote, from
`training/*.json`, which `training/train.py` wrote, or from the configuration.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from safetensors import safe_open

from emosynthnet_hf import EmoSynthNetConfig
from emosynthnet_hf.evaluation import EvaluationResult

HERE = Path(__file__).resolve().parent
FIGURES = ("<!-- figures: written by model_card/build.py -->", "<!-- end of figures -->")
SCORES = {
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "macro precision": "macro_precision",
    "macro recall": "macro_recall",
    "macro F1": "macro_f1",
    "expected calibration error": "expected_calibration_error",
}


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def score_rows(result: EvaluationResult) -> str:
    """A Markdown row a score, a column a view."""
    views = list(result.views.values())
    rows = [
        f"| {name} | " + " | ".join(percent(getattr(view, field)) for view in views) + " |"
        for name, field in SCORES.items()
    ]
    rows.append("| loss, nats | " + " | ".join(f"{view.loss:.4f}" for view in views) + " |")
    return "\n".join(rows)


def class_rows(result: EvaluationResult) -> str:
    """A Markdown row a class, single crop."""
    return "\n".join(
        f"| {name} | {percent(scores.precision)} | {percent(scores.recall)} "
        f"| {percent(scores.f1)} | {scores.support} |"
        for name, scores in result.views["single_crop"].per_class.items()
    )


def confusion_table(result: EvaluationResult) -> str:
    """The confusion matrix as a Markdown table, single crop."""
    names = result.label_names
    matrix = result.views["single_crop"].confusion_matrix
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for name, row in zip(names, matrix, strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def card(folder: Path) -> str:
    """The card of a checkpoint folder, as Markdown with front matter.

    Raises:
        FileNotFoundError: results or training files are missing.
    """
    config = EmoSynthNetConfig.from_pretrained(folder)
    test = EvaluationResult.load(folder / "results" / "fer2013-test.json")
    validation = EvaluationResult.load(folder / "results" / "fer2013-validation.json")
    log: list[dict[str, Any]] = _read(folder / "training" / "training_log.json")
    environment: dict[str, Any] = _read(folder / "training" / "environment.json")
    provenance = folder / "training" / "provenance.md"
    base = EmoSynthNetConfig.from_preset("base")
    return Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(
        name=folder.name,
        folder=folder.as_posix(),
        labels=", ".join(test.label_names),
        width_percent=100 * config.analysis_widths[0][0] // base.analysis_widths[0][0],
        parameters_millions=f"{_count_parameters(folder / 'model.safetensors') / 1e6:.2f}",
        accuracy=test.views["single_crop"].accuracy,
        macro_f1=test.views["single_crop"].macro_f1,
        split=test.split,
        epochs=round(log[-1]["epoch"]),
        minutes=round(log[-1]["run_seconds"] / 60),
        cores=environment["cores"],
        numbers="bfloat16 autocast" if environment["bfloat16"] else "float32",
        seeds=1,
        provenance=provenance.read_text(encoding="utf-8").strip() if provenance.exists() else "",
        split_sentence=(
            f"Test split (PrivateTest), {test.num_samples:,} pictures, read once. "
            f"On validation (PublicTest), on which the epoch was chosen: "
            f"{percent(validation.views['single_crop'].accuracy)} accuracy, single crop."
        ),
        scores=score_rows(test),
        per_class=class_rows(test),
        confusion=confusion_table(test),
        temperature=test.temperature,
        commands="\n".join(result.command for result in (validation, test)),
    )


def figures(folder: Path) -> str:
    """The README's table of what the checkpoint scores."""
    test = EvaluationResult.load(folder / "results" / "fer2013-test.json")
    return "\n".join(
        [
            f"`{folder.name}` on the test split of FER-2013 (PrivateTest, {test.num_samples:,} "
            f"pictures, read once):",
            "",
            "| | single crop | flip averaging |",
            "| --- | --- | --- |",
            score_rows(test),
        ]
    )


def with_figures(readme: str, text: str) -> str:
    """The README with its marked block replaced.

    Raises:
        ValueError: the markers are missing.
    """
    start, end = FIGURES
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"the README must hold {start!r} and {end!r} once each")
    head, rest = readme.split(start)
    _, tail = rest.split(end)
    return f"{head}{start}\n{text}\n{end}{tail}"


def _count_parameters(weights: Path) -> int:
    """Elements in a safetensors file, without the statistics of batch normalisation."""
    count = 0
    with safe_open(weights, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (not a dictionary)
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                size = 1
                for side in tensors.get_slice(name).get_shape():
                    size *= side
                count += size
    return count


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python model_card/build.py --help`."""
    parser = argparse.ArgumentParser(prog="python model_card/build.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="checkpoint")
    parser.add_argument("--readme", type=Path, help="write its figures into this file as well")
    options = parser.parse_args(arguments)
    try:
        text = card(options.folder)
        if options.readme:
            readme = options.readme.read_text(encoding="utf-8")
            options.readme.write_text(
                with_figures(readme, figures(options.folder)), encoding="utf-8"
            )
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (options.folder / "README.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
