"""The committed card and README say what the results files say, and nothing typed by hand."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import EvalResult
from PIL import Image

from emosynthnet_hf.data import CIFAR10, EXPRESSIONS
from emosynthnet_hf.evaluation import EvaluationResult, append_reading
from emosynthnet_hf.robustness import CorruptionScores, RobustnessResult
from emosynthnet_hf.scores import TwinScores, VoteCeiling, VoteScores, log_softmax, score
from model_card.build import (
    card,
    ceiling_sentence,
    duplicates_table,
    evaluation_file,
    figures,
    further_rows,
    main,
    read_results,
    readings_phrase,
    recipe_rows,
    rounds,
    with_figures,
)
from tests.tiny_checkpoint import make_weights, write_training

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = Path("checkpoints/emosynthnet-small-fer2013")
EVALUATION_FILE = ".eval_results/fer2013.yaml"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_committed_card_is_what_the_builder_writes() -> None:
    assert (CHECKPOINT / "README.md").read_text(encoding="utf-8") == card(CHECKPOINT)


def test_the_readme_holds_the_figures_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_figures(readme, figures(CHECKPOINT)) == readme


def test_the_card_gives_accuracy_as_the_confusion_matrix_has_it() -> None:
    values = json.loads((CHECKPOINT / "results" / "fer2013-test.json").read_text(encoding="utf-8"))
    matrix = values["views"]["single_crop"]["confusion_matrix"]
    correct = sum(matrix[number][number] for number in range(len(matrix)))
    total = sum(map(sum, matrix))
    assert total == values["num_samples"]
    assert f"| accuracy | {100 * correct / total:.2f} % |" in card(CHECKPOINT)


def test_results_are_of_the_committed_weights() -> None:
    digest = hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()
    for path in (CHECKPOINT / "results").glob("*.json"):
        assert EvaluationResult.load(path).model_sha256 == digest, path.name


def test_the_card_says_which_data_proves_it() -> None:
    shown = card(CHECKPOINT)
    for split in ("validation", "test"):
        result = EvaluationResult.load(CHECKPOINT / "results" / f"fer2013-{split}.json")
        assert f"| {split} | {result.num_samples:,} | `{result.data_sha256}` |" in shown
    assert f"python model_card/verify.py {CHECKPOINT} --data PATH" in shown


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    result = EvaluationResult.load(CHECKPOINT / "results" / "fer2013-test.json")
    shown = f"{100 * result.views['single_crop'].accuracy:.2f} %"
    forged = readme.replace(shown, "99.99 %")
    assert forged != readme
    assert with_figures(forged, figures(CHECKPOINT)) == readme


def test_the_committed_evaluation_file_is_what_the_builder_writes() -> None:
    written = (CHECKPOINT / EVALUATION_FILE).read_text(encoding="utf-8")
    assert (EVALUATION_FILE, written) == evaluation_file(CHECKPOINT)
    values = json.loads((CHECKPOINT / "results" / "fer2013-test.json").read_text(encoding="utf-8"))
    scores = values["views"]["single_crop"]
    entries = yaml.safe_load(written)
    assert {entry["dataset"]["task_id"]: entry["value"] for entry in entries} == {
        "accuracy": scores["accuracy"],
        "macro_f1": scores["macro_f1"],
    }
    assert {entry["dataset"]["id"] for entry in entries} == {"AutumnQiu/fer2013"}


def test_the_hub_reads_the_front_matter() -> None:
    data = ModelCard.load(CHECKPOINT / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    assert (data.license, data.datasets) == ("other", ["AutumnQiu/fer2013"])
    results: list[EvalResult] = data.eval_results
    test = EvaluationResult.load(CHECKPOINT / "results" / "fer2013-test.json")
    scores = test.views["single_crop"]
    assert {result.metric_type: result.metric_value for result in results} == {
        "accuracy": scores.accuracy,
        "f1": scores.macro_f1,
    }


def test_duplicates_are_those_of_the_audit() -> None:
    audit = json.loads((ROOT / "docs" / "audits" / "fer2013.json").read_text(encoding="utf-8"))
    same = len(audit["identical"]["across"]["test in train"]["rows"])
    alike = audit["alike"]["across"]["test in train"]
    row = f"| test in train | {same} | {len(alike['rows'])} | {alike['with_another_label']} |"
    assert row in duplicates_table(audit).splitlines()
    assert row in card(CHECKPOINT)


def test_twins_and_votes_are_shown_where_the_results_hold_them() -> None:
    result = EvaluationResult.load(CHECKPOINT / "results" / "fer2013-test.json")
    plain = replace(result, twins=None, votes=None, vote_ceiling=None)
    assert ceiling_sentence(plain) == ""
    assert "FER+" not in further_rows(plain)
    assert "in train" not in further_rows(plain)
    full = replace(
        result,
        twins=dict.fromkeys(result.views, TwinScores(12, 0.6, 0.5, 0.75)),
        votes=dict.fromkeys(result.views, VoteScores(0.625, 0.5)),
        vote_ceiling=VoteCeiling(3500, 3400, 0.7, VoteScores(0.8, 0.1)),
    )
    cells = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1].removesuffix(" |")
        for line in further_rows(full).splitlines()
    }
    assert cells["accuracy without the 12 pictures that are in train"] == "50.00 %"
    assert cells["accuracy on those 12"] == "75.00 %"
    assert cells["agreement with the majority of FER+'s votes"] == "62.50 %"
    assert cells["KL divergence from FER+'s votes, nats"] == "0.5000"
    validation = replace(full, split="validation")
    for results, split in (((full, validation), "test"), ((plain, validation), "validation")):
        said = ceiling_sentence(*results)
        assert said.startswith(f"Of the {split} pictures, 3,400 have")
        assert "70.00 %" in said and "80.00 %" in said


def test_the_recipe_is_shown_as_it_is_stored() -> None:
    recipe = {
        "start_from": None,
        "model": {"margin": "mam", "side_norm": True, "loss_arguments": None},
        "class_weights": "none",
        "training": {"learning_rate": 0.0012, "num_train_epochs": 22},
        "two_scale": None,
        "average_with": ["checkpoints/first", "checkpoints/other"],
    }
    assert recipe_rows(recipe).splitlines() == [
        "| model | margin mam, side_norm True |",
        "| class weights | none |",
        "| training | learning_rate 0.0012, num_train_epochs 22 |",
        "| average with | checkpoints/first, checkpoints/other |",
    ]
    stored = yaml.safe_load((CHECKPOINT / "training" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe_rows(stored) in card(CHECKPOINT)


def test_one_command_writes_card_plots_and_evaluation_file(tmp_path: Path) -> None:
    folder = tmp_path / CHECKPOINT.name
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("images", ".*", "README.md"))
    assert main([str(folder)]) == 0
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name in ("confusion-matrix", "reliability"):
        assert f"(images/{name}.png)" in text
        for parent in (folder, CHECKPOINT):
            with Image.open(parent / "images" / f"{name}.png") as picture:
                assert min(picture.size) > 500
                assert len(picture.convert("RGB").getcolors(2**20) or ()) > 20
    assert (folder / EVALUATION_FILE).read_text(encoding="utf-8")


def test_missing_results_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text((CHECKPOINT / "config.json").read_text())
    (tmp_path / "results").mkdir()
    for there, missing in (("none", "validation"), ("fer2013 validation", "test")):
        assert main([str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert f"was trained on, got {there}: " in error
        assert f"emosynthnet_hf.evaluation {tmp_path} --data PATH --split {missing}" in error
        shutil.copy(CHECKPOINT / "results" / "fer2013-validation.json", tmp_path / "results")
    assert not (tmp_path / "README.md").exists()


# --------------------------------------------------------------------------------------------------
# Other data
# --------------------------------------------------------------------------------------------------

FACES_ONLY = ("face", "expression", "emotion", "AI Act", "FER", "PrivateTest", "vote", "35,887")


def make_folder(folder: Path, dataset: str, names: Sequence[str], **recipe: Any) -> Path:
    """A tiny checkpoint with made-up results on validation and test: 30 pictures each, of which a
    third is named right."""
    make_weights(folder)
    labels = np.arange(30) % len(names)
    predicted = np.where(np.arange(30) < 10, labels, (labels + 1) % len(names))
    logits = log_softmax(3.0 * np.eye(len(names))[predicted])
    ours = EvaluationResult.load(CHECKPOINT / "results" / "fer2013-test.json")
    for split in ("validation", "test"):
        result = replace(
            ours,
            dataset=dataset,
            split=split,
            data_sha256=hashlib.sha256(f"{dataset} {split}".encode()).hexdigest(),
            num_samples=30,
            label_names=tuple(names),
            views={"single_crop": score(logits, labels, names)},
            command=f"python -m emosynthnet_hf.evaluation {folder} --data {dataset}",
            twins=None,
            votes=None,
            vote_ceiling=None,
        )
        result.save(folder / "results" / f"{dataset.replace('/', '--')}-{split}.json")
    write_training(folder, hashlib.sha256(f"{dataset} validation".encode()).hexdigest(), **recipe)
    return folder


def built(folder: Path) -> tuple[str, ModelCardData]:
    assert main([str(folder)]) == 0
    shown = ModelCard.load(folder / "README.md")
    return str(shown.content), shown.data


def test_a_card_for_cifar10_says_nothing_of_faces(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", "uoft-cs/cifar10", CIFAR10)
    text, data = built(folder)
    assert not [word for word in FACES_ONLY if word in text]
    assert (data.license, data.datasets, data.tags) == (
        "unknown",
        ["uoft-cs/cifar10"],
        ["emosynthnet"],
    )
    assert "Names what a picture shows: airplane, automobile," in text
    assert "look it up before you publish" in text
    # The audit in the repository is of another copy.
    assert "No leak audit of this data" in text and "JPEG" not in text
    assert "| accuracy | 93.63 % | 33.33 % |" in text
    assert "| pictures | test, 10,000 | test, 30 |" in text
    (entry, _) = yaml.safe_load((folder / ".eval_results" / "cifar10.yaml").read_text())
    assert entry["dataset"]["id"] == "uoft-cs/cifar10"


def test_a_card_for_ones_own_folder_leaves_the_licence_to_be_filled_in(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", "my: flowers", ("rose", "tulip"))
    text, data = built(folder)
    assert not [word for word in FACES_ONLY if word in text]
    assert "licence is unknown to the builder of this card: fill it in" in text
    assert (data.license, data.datasets) == ("unknown", None)
    assert {result.dataset_type for result in data.eval_results or ()} == {"my: flowers"}
    assert "thesis's claim" not in text
    assert not (folder / ".eval_results").exists()


def test_ones_own_faces_keep_the_limits_of_faces(tmp_path: Path) -> None:
    # Trained with `--data my_faces`: the recipe still names the data set that it was written for.
    own = make_folder(
        tmp_path / "tiny", "my_faces", ("angry", "happy"), data={"id": "AutumnQiu/fer2013"}
    )
    text, data = built(own)
    assert "AI Act, Article 5(1)(f)" in text and "fill it in here" in text
    assert not [word for word in ("FER-2013", "Goodfellow", "93.79") if word in text]
    assert data.tags == ["emosynthnet", "facial-expression-recognition"]


def test_another_copy_of_fer2013_is_not_described_by_our_audit(tmp_path: Path) -> None:
    text, data = built(make_folder(tmp_path / "tiny", "AutumnQiu/fer2013", EXPRESSIONS))
    assert "FER-2013 (Goodfellow et al., 2013; ICML 2013 challenge), for research use" in text
    assert (data.license, data.license_name) == ("other", "fer2013-research-use")
    assert "| accuracy | 93.79 % | 33.33 % |" in text
    assert "177" not in text and "test in train" not in text and "read once" not in text
    # A folder of that name with other classes is other data.
    text, data = built(make_folder(tmp_path / "other", "fer2013", ("cat", "dog")))
    assert data.license == "unknown" and "FER-2013" not in text


def test_what_our_copy_of_fer2013_lacks_is_what_the_audit_counts() -> None:
    audit = json.loads((ROOT / "docs" / "audits" / "fer2013.json").read_text(encoding="utf-8"))
    lacking = 35_887 - sum(split["images"] for split in audit["splits"].values())
    assert f"35,887 pictures, it lacks the {lacking} that" in card(CHECKPOINT)


def test_the_card_is_of_the_data_that_was_trained_on(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", "my_faces", ("angry", "happy"))
    shutil.copytree(CHECKPOINT / "results", folder / "results", dirs_exist_ok=True)
    assert {each.dataset for each in read_results(folder).values()} == {"my_faces"}


def test_readings_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = EvaluationResult.load(CHECKPOINT / "results" / "fer2013-test.json")
    assert readings_phrase(result) == ", read once"
    log = tmp_path / "readings.md"
    monkeypatch.setattr("model_card.build.READINGS", log)
    for count, phrase in ((1, ", read once"), (2, ", read 2 times")):
        append_reading(log, replace(result, date=f"2026-11-2{count}T00:00:00+00:00"))
        assert readings_phrase(result) == phrase
    assert readings_phrase(replace(result, split="validation")) == ""


def test_what_a_training_started_from_is_said(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "one", "my_faces", ("angry", "happy"))
    text, _ = built(first)
    alone = "2 epochs from scratch, 2 minutes (2 CPU cores, bfloat16 autocast)"
    assert f"\n{alone}. One seed;" in text
    second = make_folder(
        tmp_path / "two",
        "my_faces",
        ("angry", "happy"),
        start_from=str(first),
        distillation={"teacher": "checkpoints/first", "weight": 0.5},
        average_with=["checkpoints/first", "checkpoints/other"],
    )
    text, _ = built(second)
    assert (
        f"\n{alone}; then 2 epochs from the weights of `{first}`, towards labels blended with what "
        f"`checkpoints/first` says of them, then averaged with the weights of `checkpoints/first`, "
        f"`checkpoints/other`, 2 minutes (2 CPU cores, bfloat16 autocast). One seed;"
    ) in text
    assert [each.epochs for each in rounds(second)] == [2, 2]


def test_epochs_on_other_data_are_not_counted_to_the_claim(tmp_path: Path) -> None:
    fer = make_folder(tmp_path / "fer", "fer2013", EXPRESSIONS, data={"id": "AutumnQiu/fer2013"})
    more = {"data": {"id": "AutumnQiu/fer2013"}, "start_from": str(fer)}
    assert "| epochs | 100 | 4 |" in card(
        make_folder(tmp_path / "again", "fer2013", EXPRESSIONS, **more)
    )
    more["data"] = {"id": "ckplus"}
    text = card(make_folder(tmp_path / "ckplus", "ckplus", EXPRESSIONS, **more))
    assert "| epochs | 100 | 2 |" in text and "on nothing else" not in text


def test_records_of_robustness_and_explanations_count_for_their_weights_only(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path / "tiny", "my_faces", ("angry", "happy"))
    assert "What breaks it first" not in card(folder) and "heat maps" not in card(folder)
    validation = read_results(folder)["validation"]
    measured = RobustnessResult(
        **{
            name: getattr(validation, name)
            for name in ("checkpoint", "model_sha256", "dataset", "split", "data_sha256")
        },
        num_samples=2,
        dtype="float32",
        device="cpu",
        accuracy=0.5,
        corruptions={"blur": CorruptionScores("sigma", (1, 2, 3, 4, 5), (0.5, 0.4, 0.3, 0.2, 0.1))},
        seed=0,
        versions={},
        command="python x",
        date="2026-11-24T00:00:00+00:00",
    )
    checks = {"model_sha256": validation.model_sha256, "failures": {"one": [], "two": ["fails"]}}
    measured.save(folder / "robustness" / "validation.json")
    (folder / "faithfulness.json").write_text(json.dumps(checks))
    text = card(folder)
    assert "| blur | sigma | 50.0% (1) | 40.0% (2) |" in text
    assert "![Accuracy over the strength of each corruption](robustness/validation.png)" in text
    assert "Of 2 methods and layers, 1 passed every check" in text

    replace(measured, model_sha256="other").save(folder / "robustness" / "validation.json")
    (folder / "faithfulness.json").write_text(json.dumps(checks | {"model_sha256": "other"}))
    assert "What breaks it first" not in card(folder) and "heat maps" not in card(folder)
