"""Write the card of a checkpoint, and the figures of the README, from the checkpoint's own files.

    python model_card/build.py checkpoints/NAME [--readme README.md]

Every number comes from `results/*.json`, which `emosynthnet_hf.evaluation` wrote, from
`training/`, which `training/train.py` wrote, from the leak audit in `docs/audits`, which
`training/audit_data.py` wrote, or from the configuration. Beside the card it writes plots
(`images/`) and the Hub's evaluation file (`.eval_results/`).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from safetensors import safe_open

from emosynthnet_hf import EmoSynthNetConfig
from emosynthnet_hf.evaluation import SINGLE_CROP, EvaluationResult
from plots import draw

HERE = Path(__file__).resolve().parent
AUDITS = HERE.parent / "docs" / "audits"
DATASET = "AutumnQiu/fer2013"
# Goodfellow et al., 2013: 28,709, 3,589 and 3,589.
ORIGINAL_IMAGES = 35_887
EVALUATION_FILE = ".eval_results/fer2013.yaml"
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


def further_rows(result: EvaluationResult) -> str:
    """Rows as in `score_rows` on confidence, twins and votes, as far as the result holds them."""
    rows: dict[str, Sequence[float | None]] = {
        "accuracy of the surest half": [
            1 - min(view.risk_coverage, key=lambda point: abs(point[0] - 0.5))[1]
            for view in result.views.values()
        ]
    }
    if result.twins:
        entries = [result.twins[name] for name in result.views]
        count = entries[0].num_twins
        without = [entry.accuracy_without_twins for entry in entries]
        twins = [entry.accuracy_of_twins for entry in entries]
        rows[f"accuracy without the {count} pictures that are in train"] = without
        rows[f"accuracy on those {count}"] = twins
    if result.votes:
        name = "agreement with the majority of FER+'s votes"
        rows[name] = [result.votes[view].accuracy for view in result.views]
    lines = [
        f"| {name} | "
        + " | ".join("none" if value is None else percent(value) for value in values)
        + " |"
        for name, values in rows.items()
    ]
    if result.votes:
        values = [f"{result.votes[view].divergence:.4f}" for view in result.views]
        lines.append("| KL divergence from FER+'s votes, nats | " + " | ".join(values) + " |")
    return "\n".join(lines)


def ceiling_sentence(*results: EvaluationResult) -> str:
    """What people reach on the pictures of the first result that has votes."""
    for result in results:
        if result.vote_ceiling is not None:
            ceiling = result.vote_ceiling
            return (
                f"Of the {result.split} pictures, {ceiling.num_majorities:,} have one majority "
                f"among FER+'s ten votes. The original label is that majority on "
                f"{percent(ceiling.label_agreement)} of them; the majority of a second panel of as "
                f"many annotators would be on {percent(ceiling.panel.accuracy)}."
            )
    return ""


def recipe_rows(recipe: dict[str, Any]) -> str:
    """A Markdown row a section of a recipe that says something, as it says it."""
    rows = []
    for section, values in recipe.items():
        said = {} if values is None else values
        if isinstance(said, dict):
            said = ", ".join(f"{key} {value}" for key, value in said.items() if value is not None)
        if said:
            rows.append(f"| {section.replace('_', ' ')} | {said} |")
    return "\n".join(rows)


def duplicates_table(audit: dict[str, Any]) -> str:
    """The audit's pictures in two splits as a Markdown table."""
    lines = ["| | identical | identical or near-identical | of these with another label |"]
    lines.append("| --- | --- | --- | --- |")
    for where, same in audit["identical"]["across"].items():
        alike = audit["alike"]["across"][where]
        lines.append(
            f"| {where} | {same['images']} | {alike['images']} | {alike['with_another_label']} |"
        )
    return "\n".join(lines)


def evaluation_file(folder: Path) -> str:
    """The Hub's `.eval_results` YAML of a checkpoint folder: one entry a score, single crop."""
    test = _result(folder, "test")
    scores = test.views[SINGLE_CROP]
    entries = [
        EvalResultEntry(
            dataset_id=DATASET,
            task_id=field,
            value=getattr(scores, field),
            date=test.date,
            notes=f"split {test.split}, single crop, {test.num_samples} pictures; {test.command}",
        )
        for field in ("accuracy", "macro_f1")
    ]
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=1000)
    return text


def class_rows(result: EvaluationResult) -> str:
    """A Markdown row a class, single crop."""
    return "\n".join(
        f"| {name} | {percent(scores.precision)} | {percent(scores.recall)} "
        f"| {percent(scores.f1)} | {scores.support} |"
        for name, scores in result.views[SINGLE_CROP].per_class.items()
    )


def confusion_table(result: EvaluationResult) -> str:
    """The confusion matrix as a Markdown table, single crop."""
    names = result.label_names
    matrix = result.views[SINGLE_CROP].confusion_matrix
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for name, row in zip(names, matrix, strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def fingerprint_rows(*results: EvaluationResult) -> str:
    """A Markdown row a split: how many pictures, and the fingerprint of the data."""
    return "\n".join(
        f"| {result.split} | {result.num_samples:,} | `{result.data_sha256}` |"
        for result in results
    )


def card(folder: Path) -> str:
    """The card of a checkpoint folder, as Markdown with front matter.

    Raises:
        FileNotFoundError: results or training files are missing.
    """
    config = EmoSynthNetConfig.from_pretrained(folder)
    test, validation = _result(folder, "test"), _result(folder, "validation")
    audit: dict[str, Any] = _read(AUDITS / "fer2013.json")
    images = {name: split["images"] for name, split in audit["splits"].items()}
    log: list[dict[str, Any]] = _read(folder / "training" / "training_log.json")
    environment: dict[str, Any] = _read(folder / "training" / "environment.json")
    recipe = yaml.safe_load((folder / "training" / "recipe.yaml").read_text(encoding="utf-8"))
    provenance = folder / "training" / "provenance.md"
    base = EmoSynthNetConfig.from_preset("base")
    return Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(
        name=folder.name,
        folder=folder.as_posix(),
        labels=", ".join(test.label_names),
        width_percent=100 * config.analysis_widths[0][0] // base.analysis_widths[0][0],
        parameters_millions=f"{_count_parameters(folder / 'model.safetensors') / 1e6:.2f}",
        accuracy=test.views[SINGLE_CROP].accuracy,
        accuracy_percent=percent(test.views[SINGLE_CROP].accuracy),
        macro_f1=test.views[SINGLE_CROP].macro_f1,
        dataset=DATASET,
        split=test.split,
        train_images=f"{images['train']:,}",
        validation_images=f"{images['validation']:,}",
        test_images=f"{images['test']:,}",
        original_images=f"{ORIGINAL_IMAGES:,}",
        missing_images=f"{ORIGINAL_IMAGES - sum(images.values()):,}",
        duplicates=duplicates_table(audit),
        audit_command=audit["command"],
        recipe=recipe_rows(recipe),
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
        views=" | ".join(name.replace("_", " ") for name in test.views),
        rule=" --- |" * len(test.views),
        scores=f"{score_rows(test)}\n{further_rows(test)}",
        ceiling=ceiling_sentence(test, validation),
        per_class=class_rows(test),
        confusion=confusion_table(test),
        temperature=test.temperature,
        commands="\n".join(result.command for result in (validation, test)),
        fingerprints=fingerprint_rows(validation, test),
    )


def figures(folder: Path) -> str:
    """The README's table of what the checkpoint scores."""
    test, validation = _result(folder, "test"), _result(folder, "validation")
    ceiling = ceiling_sentence(test, validation)
    return "\n".join(
        [
            f"`{folder.name}` on the test split of FER-2013 (PrivateTest, {test.num_samples:,} "
            f"pictures, read once):",
            "",
            "| | single crop | flip averaging |",
            "| --- | --- | --- |",
            score_rows(test),
            *(["", ceiling] if ceiling else []),
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


def _result(folder: Path, split: str) -> EvaluationResult:
    return EvaluationResult.load(folder / "results" / f"fer2013-{split}.json")


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
        evaluations = evaluation_file(options.folder)
        draw(_result(options.folder, "test"), options.folder / "images")
        if options.readme:
            readme = options.readme.read_text(encoding="utf-8")
            options.readme.write_text(
                with_figures(readme, figures(options.folder)), encoding="utf-8"
            )
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (options.folder / "README.md").write_text(text, encoding="utf-8")
    evaluation_path = options.folder / EVALUATION_FILE
    evaluation_path.parent.mkdir(exist_ok=True)
    evaluation_path.write_text(evaluations, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
