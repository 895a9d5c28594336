"""The committed card and README say what the results files say, and nothing typed by hand."""

import hashlib
import json
from pathlib import Path

import pytest

from emosynthnet_hf.evaluation import EvaluationResult
from model_card.build import card, figures, main, with_figures

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


def test_a_changed_digit_is_noticed(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    result = EvaluationResult.load(CHECKPOINT / "results" / "fer2013-test.json")
    shown = f"{100 * result.views['single_crop'].accuracy:.2f} %"
    forged = readme.replace(shown, "99.99 %")
    assert forged != readme
    assert with_figures(forged, figures(CHECKPOINT)) == readme


def test_missing_results_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text((CHECKPOINT / "config.json").read_text())
    assert main([str(tmp_path)]) == 1
    assert "fer2013-test.json" in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()
