"""The committed card and README say what the results files say, and nothing typed by hand."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult
from PIL import Image

from emosynthnet_hf.evaluation import EvaluationResult
from emosynthnet_hf.scores import TwinScores, VoteCeiling, VoteScores
from model_card.build import (
    EVALUATION_FILE,
    card,
    ceiling_sentence,
    duplicates_table,
    evaluation_file,
    figures,
    further_rows,
    main,
    recipe_rows,
    with_figures,
)

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = Path("checkpoints/emosynthnet-small-fer2013")


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
    assert written == evaluation_file(CHECKPOINT)
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
    }
    assert recipe_rows(recipe).splitlines() == [
        "| model | margin mam, side_norm True |",
        "| class weights | none |",
        "| training | learning_rate 0.0012, num_train_epochs 22 |",
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
    assert main([str(tmp_path)]) == 1
    assert "fer2013-test.json" in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()
