"""Write the card of a checkpoint, and the figures of the README, from the checkpoint's own files.

    python model_card/build.py checkpoints/NAME [--readme README.md]

Every number comes from `results/*.json`, which `emosynthnet_hf.evaluation` wrote, from
`training/`, which `training/train.py` wrote, from the leak audit in `docs/audits`, which
`training/audit_data.py` wrote, or from the configuration; what is known of the data set itself is
in `facts.py`. Beside the card it writes plots (`images/`) and, for a data set that is on the Hub,
its evaluation file (`.eval_results/`).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from safetensors import safe_open

from emosynthnet_hf import EmoSynthNetConfig, robustness
from emosynthnet_hf.evaluation import FAITHFULNESS, SINGLE_CROP, EvaluationResult
from emosynthnet_hf.robustness import RobustnessResult
from facts import DataFacts, data_facts
from plots import draw

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
AUDITS = DOCS / "audits"
READINGS = DOCS / "test-readings.md"
NEEDED_SPLITS = ("validation", "test")
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
        elif isinstance(said, list):
            said = ", ".join(said)
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


def evaluation_file(folder: Path) -> tuple[str, str] | None:
    """Path in the folder and text of the Hub's `.eval_results` YAML: one entry a score, single
    crop. None for a data set that is not on the Hub.

    Raises:
        FileNotFoundError: as `read_results`.
    """
    test = read_results(folder)["test"]
    dataset_id = data_facts(test.dataset, test.label_names).hub_id
    if dataset_id is None:
        return None
    scores = test.views[SINGLE_CROP]
    entries = [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id=field,
            value=getattr(scores, field),
            date=test.date,
            notes=f"split {test.split}, single crop, {test.num_samples} pictures; {test.command}",
        )
        for field in ("accuracy", "macro_f1")
    ]
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=1000)
    return f".eval_results/{test.dataset.split('/')[-1]}.yaml", text


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


def read_results(folder: Path) -> dict[str, EvaluationResult]:
    """The results on validation and test, by split, of the data that the checkpoint was trained on.

    Where there are results on several data sets, it is the one whose validation split has the
    fingerprint that `training/train.py` wrote down.

    Raises:
        FileNotFoundError: one of the two is missing, or no file that says what it was trained on.
    """
    results = [EvaluationResult.load(path) for path in sorted(folder.glob("results/*.json"))]
    names = {result.dataset for result in results}
    if len(names) > 1:
        trained = _read(folder / "training" / "environment.json")["data"]["validation"]["sha256"]
        names = {result.dataset for result in results if result.data_sha256 == trained}
    found = {result.split: result for result in results if result.dataset in names}
    missing = [split for split in NEEDED_SPLITS if split not in found]
    if missing:
        there = ", ".join(f"{result.dataset} {result.split}" for result in results) or "none"
        raise FileNotFoundError(
            f"{folder}/results must hold results on validation and test of the data that it was "
            f"trained on, got {there}: python -m emosynthnet_hf.evaluation {folder} --data PATH "
            f"--split {missing[0]} --flip"
        )
    return found


def matching_audit(*results: EvaluationResult) -> dict[str, Any] | None:
    """The leak audit of the data that results were made on: one of the same name with as many
    pictures of each class; None without."""
    path = AUDITS / f"{results[0].dataset}.json"
    if not path.is_file():
        return None
    audit: dict[str, Any] = _read(path)
    for result in results:
        classes = result.views[SINGLE_CROP].per_class
        counts = {name: scores.support for name, scores in classes.items()}
        if audit["splits"].get(result.split, {}).get("classes") != counts:
            return None
    return audit


def readings_phrase(result: EvaluationResult) -> str:
    """How often the weights were measured on a split, by the log of readings; "" if it has none."""
    wanted = [result.checkpoint, result.model_sha256[:12], result.dataset, result.split]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in READINGS.read_text(encoding="utf-8").splitlines()
    ]
    # A reading is a row a view, all of one date.
    count = len({row[0] for row in rows if row[1:5] == wanted})
    return {0: "", 1: ", read once"}.get(count, f", read {count} times")


def front_matter(name: str, facts: DataFacts, test: EvaluationResult) -> str:
    """The Hub's metadata, as YAML."""
    scores = test.views[SINGLE_CROP]
    metrics = [
        {"type": "accuracy", "value": scores.accuracy},
        {"type": "f1", "name": "macro F1", "value": scores.macro_f1},
    ]
    entry = {
        "task": {"type": "image-classification"},
        "dataset": {
            "type": facts.hub_id or test.dataset,
            "name": facts.title,
            "split": test.split,
        },
        "metrics": metrics,
    }
    values = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        **facts.license,
        **({"datasets": [facts.hub_id]} if facts.hub_id else {}),
        "metrics": ["accuracy", "f1"],
        "tags": ["emosynthnet", *(["facial-expression-recognition"] * facts.shows_faces)],
        "model-index": [{"name": name, "results": [entry]}],
    }
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return text.strip()


def purpose(facts: DataFacts, test: EvaluationResult) -> str:
    """What the checkpoint is for, and its limits."""
    recalls = {name: each.recall for name, each in test.views[SINGLE_CROP].per_class.items()}
    low, high = min(recalls, key=recalls.__getitem__), max(recalls, key=recalls.__getitem__)
    spread = (
        f"The recall of its classes lies between {percent(recalls[low])} ({low}) and "
        f"{percent(recalls[high])} ({high})."
    )
    if not facts.shows_faces:
        return (
            f"It names one of its {len(recalls)} classes whatever a picture shows, also where it "
            f"shows none of them, and was measured on pictures like those that it was trained on, "
            f"not on others. {spread}"
        )
    return "\n".join(
        line
        for line in (
            "An expression is what a face shows, not what a person feels.",
            facts.labels,
            "Use it for research and demonstrations on pictures whose people agree. Do not use it "
            "to judge a person.",
            "Inferring emotions from faces at work or in education is banned in the European Union "
            "(AI Act, Article 5(1)(f)).",
            "It has not been tested for differences between ages, sexes, skin colours or cultures.",
            spread,
        )
        if line
    )


@dataclass(frozen=True)
class Round:
    """One training: a checkpoint may go on from the weights of another."""

    recipe: dict[str, Any]
    epochs: int
    minutes: int
    machine: str


def rounds(folder: Path) -> list[Round]:
    """What was trained for a checkpoint, the first round first, as far as its own records and those
    of the checkpoints in the repository that it started from tell.

    Raises:
        FileNotFoundError: training files are missing.
    """
    log: list[dict[str, Any]] = _read(folder / "training" / "training_log.json")
    environment: dict[str, Any] = _read(folder / "training" / "environment.json")
    recipe = yaml.safe_load((folder / "training" / "recipe.yaml").read_text(encoding="utf-8"))
    numbers = "bfloat16 autocast" if environment["bfloat16"] else "float32"
    latest = Round(
        recipe,
        round(log[-1]["epoch"]),
        round(log[-1]["run_seconds"] / 60),
        f"{environment['cores']} CPU cores, {numbers}",
    )
    start = recipe.get("start_from")
    before = HERE.parent / start if start else None
    return [*(rounds(before) if before and before.is_dir() else []), latest]


def budget_sentence(trained: Sequence[Round]) -> str:
    """What each round started from, whom it learnt from, what its weights were averaged with, and
    what it took."""
    parts = []
    for each in trained:
        start, distillation = each.recipe.get("start_from"), each.recipe.get("distillation")
        part = f"{each.epochs} epochs "
        part += f"from the weights of `{start}`" if start else "from scratch"
        if distillation:
            part += f", towards labels blended with what `{distillation['teacher']}` says of them"
        if others := each.recipe.get("average_with"):
            part += (
                f", then averaged with the weights of {', '.join(f'`{name}`' for name in others)}"
            )
        parts.append(f"{part}, {each.minutes} minutes ({each.machine})")
    return "; then ".join(parts)


def robustness_section(folder: Path, validation: EvaluationResult) -> str:
    """Accuracy under corruptions, if it was measured with these weights; else ""."""
    path = folder / "robustness" / f"{validation.split}.json"
    if not path.is_file():
        return ""
    measured = RobustnessResult.load(path)
    if measured.model_sha256 != validation.model_sha256:
        return ""
    picture = f"![Accuracy over the strength of each corruption](robustness/{validation.split}.png)"
    return f"## What breaks it first\n\n{robustness.table(measured)}\n\n{picture}\n"


def explanations_section(folder: Path, validation: EvaluationResult) -> str:
    """Which of its heat maps fail a check of faithfulness, if that was measured with these weights;
    else ""."""
    path = folder / FAITHFULNESS
    record: dict[str, Any] = _read(path) if path.is_file() else {}
    if record.get("model_sha256") != validation.model_sha256:
        return ""
    failures: dict[str, list[str]] = record["failures"]
    failed = [name for name, sentences in failures.items() if sentences]
    return (
        "## Are its heat maps faithful?\n\n"
        f"Of {len(failures)} methods and layers, {len(failures) - len(failed)} passed every check "
        f"by deletion, insertion and random weights. "
        f"[faithfulness.md](faithfulness.md) says which failed what.\n"
    )


def duplicates_section(audit: dict[str, Any] | None) -> str:
    """What the leak audit found, or that there was none."""
    if audit is None:
        return (
            "No leak audit of this data is in the repository: whether pictures are in two splits "
            "is not known (`python training/audit_data.py PATH` tells)."
        )
    return "\n\n".join(
        [
            "Pictures that are in two splits:",
            duplicates_table(audit),
            "Near-identical is one photograph re-encoded, brightened, watermarked, mirrored or cut "
            f"a little differently\n(`{audit['command']}`).",
        ]
    )


def claim_section(
    facts: DataFacts, test: EvaluationResult, where: str, width_percent: int, epochs: int
) -> str:
    """The thesis's claim beside what was measured; "" where it claims nothing."""
    claim = facts.claim
    if claim is None:
        return ""
    accuracy = test.views[SINGLE_CROP].accuracy
    verdict = (
        "This checkpoint reaches the claim"
        if accuracy >= claim.accuracy
        else "The claim was not reproduced"
    )
    if (width_percent, epochs) != (100, claim.epochs):
        verdict += "; the thesis's own widths and schedule were not run here"
    return "\n".join(
        [
            "## The thesis's claim",
            "",
            "| | thesis | measured here |",
            "| --- | --- | --- |",
            f"| accuracy | {percent(claim.accuracy)} | {percent(accuracy)} |",
            f"| pictures | {claim.pictures} | {where}, {test.num_samples:,} |",
            f"| widths | base | {width_percent} % of base |",
            f"| epochs | {claim.epochs} | {epochs} |",
            "",
            f"{verdict}.",
        ]
    )


def card(folder: Path) -> str:
    """The card of a checkpoint folder, as Markdown with front matter.

    Raises:
        FileNotFoundError: results or training files are missing.
    """
    config = EmoSynthNetConfig.from_pretrained(folder)
    results = read_results(folder)
    test, validation = results["test"], results["validation"]
    facts = data_facts(test.dataset, test.label_names)
    splits = {name: facts.splits.get(name, name) for name in ("train", *NEEDED_SPLITS)}
    audit = matching_audit(test, validation)
    environment: dict[str, Any] = _read(folder / "training" / "environment.json")
    trained = rounds(folder)
    recipe = trained[-1].recipe
    provenance = folder / "training" / "provenance.md"
    base = EmoSynthNetConfig.from_preset("base")
    width_percent = 100 * config.analysis_widths[0][0] // base.analysis_widths[0][0]
    # Rounds on other data, as of a checkpoint for FER-2013 that CK+ starts from, are not counted.
    epochs = sum(each.epochs for each in trained if _data_id(each) == _data_id(trained[-1]))
    fold = recipe.get("data", {}).get("fold")
    where = splits["test"] if fold is None else f"{splits['test']} of fold {fold}"
    commands = [audit["command"]] if audit else []
    commands += [validation.command, test.command]
    return Template((HERE / "template.md").read_text(encoding="utf-8")).substitute(
        front_matter=front_matter(folder.name, facts, test),
        name=folder.name,
        folder=folder.as_posix(),
        shows="the facial expression in a close crop of a face"
        if facts.shows_faces
        else "what a picture shows",
        example="face.png" if facts.shows_faces else "picture.png",
        labels=", ".join(test.label_names),
        width_percent=width_percent,
        parameters_millions=f"{_count_parameters(folder / 'model.safetensors') / 1e6:.2f}",
        title=facts.title,
        purpose=purpose(facts, test),
        licence=facts.licence,
        splits=_splits_sentence(splits, environment, results, facts.audited_copy if audit else ""),
        duplicates=duplicates_section(audit),
        recipe=recipe_rows(recipe),
        budget=budget_sentence(trained),
        provenance=provenance.read_text(encoding="utf-8").strip() if provenance.exists() else "",
        split_sentence=(
            f"{_split_name(splits, 'test')}, {test.num_samples:,} pictures{readings_phrase(test)}. "
            f"{_split_name(splits, 'validation')}, on which the epoch was chosen: "
            f"{percent(validation.views[SINGLE_CROP].accuracy)} accuracy, single crop."
        ),
        views=" | ".join(name.replace("_", " ") for name in test.views),
        rule=" --- |" * len(test.views),
        scores=f"{score_rows(test)}\n{further_rows(test)}",
        ceiling=ceiling_sentence(test, validation),
        per_class=class_rows(test),
        confusion=confusion_table(test),
        temperature=test.temperature,
        robustness=robustness_section(folder, validation),
        explanations=explanations_section(folder, validation),
        claim=claim_section(facts, test, where, width_percent, epochs),
        commands="\n".join(commands),
        fingerprints=fingerprint_rows(validation, test),
    )


def card_files(folder: Path) -> dict[str, str]:
    """Every text that is built for a checkpoint, by its path in the folder.

    Raises:
        FileNotFoundError: results or training files are missing.
    """
    evaluations = evaluation_file(folder)
    return {"README.md": card(folder), **(dict([evaluations]) if evaluations else {})}


def figures(folder: Path) -> str:
    """The README's table of what the checkpoint scores."""
    results = read_results(folder)
    test = results["test"]
    facts = data_facts(test.dataset, test.label_names)
    split = facts.splits.get("test", "test")
    ceiling = ceiling_sentence(test, results["validation"])
    return "\n".join(
        [
            f"`{folder.name}` on the test split of {facts.title} ({split}, {test.num_samples:,} "
            f"pictures{readings_phrase(test)}):",
            "",
            "| | " + " | ".join(name.replace("_", " ") for name in test.views) + " |",
            "| --- |" + " --- |" * len(test.views),
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


def _split_name(splits: dict[str, str], split: str) -> str:
    """`Test split (PrivateTest)`, or without the parenthesis where the data set says the same."""
    own = "" if splits[split] == split else f" ({splits[split]})"
    return f"{split.capitalize()} split{own}"


def _splits_sentence(
    splits: dict[str, str],
    environment: dict[str, Any],
    results: dict[str, EvaluationResult],
    audited_copy: str,
) -> str:
    """Which split served what, how large the copy is, and what is to be said of it."""
    validation, test = (results[split].num_samples for split in NEEDED_SPLITS)
    sentences = [
        f"Trained on {splits['train']}, chosen and calibrated on {splits['validation']}; "
        f"{splits['test']} is for the finished file.",
        f"The copy used has {environment['data']['train']['images']:,}, {validation:,} and "
        f"{test:,} pictures for training, validation and test.",
        audited_copy,
    ]
    return "\n".join(each for each in sentences if each)


def _data_id(trained: Round) -> str | None:
    """Of the data set that a round's recipe names."""
    found: str | None = trained.recipe.get("data", {}).get("id")
    return found


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python model_card/build.py --help`."""
    parser = argparse.ArgumentParser(prog="python model_card/build.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="checkpoint")
    parser.add_argument("--readme", type=Path, help="write its figures into this file as well")
    options = parser.parse_args(arguments)
    try:
        texts = card_files(options.folder)
        draw(read_results(options.folder)["test"], options.folder / "images")
        if options.readme:
            readme = options.readme.read_text(encoding="utf-8")
            options.readme.write_text(
                with_figures(readme, figures(options.folder)), encoding="utf-8"
            )
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, text in texts.items():
        path = options.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
