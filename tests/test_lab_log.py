"""The lab log on made-up runs: what differs, what was gained, what was stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import lab_log

RECIPE: dict[str, Any] = {
    "data": {"id": "some/faces"},
    "model": {"preset": "quarter", "margin": "mam"},
    "training": {"num_train_epochs": 2, "learning_rate": 1e-3},
}


def run(folder: Path, accuracies: list[float], *, finished: bool, **changes: Any) -> Path:
    folder.mkdir()
    recipe = RECIPE | {name: RECIPE[name] | value for name, value in changes.items()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc", "cores": 2}))
    scores = [{"accuracy": accuracy, "loss": 1.5} for accuracy in accuracies]
    if finished:
        rows = [
            {"train_loss": 1.0, "run_seconds": 90.0 * epoch, "validation": score}
            for epoch, score in enumerate(scores, 1)
        ]
        (folder / "training_log.json").write_text(json.dumps(rows))
        return folder
    history: list[dict[str, Any]] = []
    for epoch, score in enumerate(scores, 1):
        history.append({"loss": 1.0, "epoch": epoch, "step": epoch})
        evaluated = {f"eval_{name}": value for name, value in score.items()}
        history.append(evaluated | {"epoch": epoch, "step": epoch, "run_seconds": 90.0 * epoch})
    for step in (9, 10):  # the last by number, not by name
        (folder / f"checkpoint-{step}").mkdir()
        state = {"log_history": history if step == 10 else []}
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_the_first_of_a_group_is_what_the_others_are_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_log, "LOG", tmp_path / "lab-log.json")
    first = run(tmp_path / "first", [0.30, 0.40], finished=True)
    other = run(tmp_path / "other", [0.425, 0.41], finished=True, model={"margin": "none"})
    stopped = run(tmp_path / "stopped", [0.35], finished=False, training={"learning_rate": 5e-4})
    for folder, finding in ((first, ""), (other, "Without a margin it is better."), (stopped, "")):
        assert lab_log.main([str(folder), "--group", "two epochs", "--finding", finding]) == 0
    rows = [line for line in (tmp_path / "lab-log.md").read_text().splitlines() if "| " in line]
    assert rows[2:] == [
        "| first | (the baseline) | 2 | 3 | 2 | 40.00 % |  |",
        "| other | model.margin none | 2 | 3 | 2 | 42.50 % | +2.50 |",
        "| stopped | training.learning_rate 0.0005 | 1 of 2 | 2 | 2 | 35.00 % | -5.00 |",
    ]
    assert "other: Without a margin it is better." in (tmp_path / "lab-log.md").read_text()


def test_a_setting_that_came_later_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_log, "LOG", tmp_path / "lab-log.json")
    for name in ("old", "new"):
        folder = run(tmp_path / name, [0.30], finished=True)
        assert lab_log.main([str(folder), "--group", "a"]) == 0
        if name == "old":
            (known,) = json.loads(lab_log.LOG.read_text())
            del known["recipe"]["ema_decay"]
            del known["recipe"]["augmentation"]["noise"]
            lab_log.LOG.write_text(json.dumps([known]))
    assert "| new | nothing | 1 of 2 |" in (tmp_path / "lab-log.md").read_text()


def test_the_baseline_may_come_after_what_is_compared_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_log, "LOG", tmp_path / "lab-log.json")
    for name, group, margin, accuracy, more in (
        ("apart", "another", "none", 0.25, []),
        ("other", "a", "none", 0.35, []),
        ("plain", "a", "mam", 0.30, ["--baseline"]),
    ):
        folder = run(tmp_path / name, [accuracy], finished=True, model={"margin": margin})
        assert lab_log.main([str(folder), "--group", group, *more]) == 0
    names = [known["name"] for known in json.loads(lab_log.LOG.read_text())]
    assert names == ["apart", "plain", "other"]
    page = (tmp_path / "lab-log.md").read_text()
    assert "| plain | (the baseline) |" in page
    assert "| other | model.margin none | 1 of 2 | 2 | 2 | 35.00 % | +5.00 |" in page


def test_a_run_that_is_added_again_takes_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_log, "LOG", tmp_path / "lab-log.json")
    folder = run(tmp_path / "one", [0.30], finished=True)
    for _ in range(2):
        assert lab_log.main([str(folder), "--group", "a"]) == 0
    assert [known["name"] for known in json.loads(lab_log.LOG.read_text())] == ["one"]


def test_a_folder_in_which_nothing_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert lab_log.main([str(tmp_path), "--group", "a"]) == 1
    assert "must hold training_log.json or a checkpoint" in capsys.readouterr().err
