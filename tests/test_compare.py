"""Comparisons of margins and losses, on made-up pictures: fair, resumable, right sums."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import compare
from compare import Choice, Pair, main, margins_by_class, parse_pairs, read_results, spread
from emosynthnet_hf.losses import ProgressCallback
from emosynthnet_hf.margin_emosynthnet import MarginLoss
from recipe import load_recipe
from tests import tiny_recipe
from tests.test_recipes import DATA, write_mnist
from tests.tiny_recipe import CLASSES, TINY, write_faces
from trainer import ImageTrainer

RECIPES = Path(__file__).resolve().parent.parent / "training" / "recipes" / "compare"
RECIPE: dict[str, Any] = tiny_recipe.RECIPE | {
    "training": {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 6,
        "learning_rate": 1.0e-3,
        "seed": 5,
    },
}
Watch = Callable[[ImageTrainer, Any, dict[str, Any]], None]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise whose brightness tells the class: 18 training, 9 validation pictures. The test split
    holds a file that is no picture: reading it fails."""
    folder = tmp_path_factory.mktemp("data") / "my_faces"
    write_faces(folder, {"train": 6, "validation": 3}, 32, 32)
    (folder / "test" / "sad").mkdir(parents=True)
    (folder / "test" / "sad" / "broken.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return str(path)


def before_each_training_step(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> None:
    compute_loss = ImageTrainer.compute_loss

    def watched(self: ImageTrainer, model: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
        if model.training:
            watch(self, model, inputs)
        return compute_loss(self, model, inputs, **kwargs)

    monkeypatch.setattr(ImageTrainer, "compute_loss", watched)


def without_times(results: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(results.read_text())
    summary["budget"].pop("minutes")
    for pair in summary["pairs"]:
        for run in pair["runs"]:
            run.pop("minutes")
    return summary


def assert_near(got: Any, want: Any) -> None:
    """Equal, numbers up to what the order of sums in bfloat16 makes of them."""
    assert type(got) is type(want)
    if isinstance(got, dict):
        assert got.keys() == want.keys()
        for key in got:
            assert_near(got[key], want[key])
    elif isinstance(got, list):
        assert len(got) == len(want)
        for ours, theirs in zip(got, want, strict=True):
            assert_near(ours, theirs)
    elif isinstance(got, float):
        assert got == pytest.approx(want, rel=1e-3, abs=1e-5)
    else:
        assert got == want


@pytest.fixture(scope="module")
def compared(faces: Path, recipe: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Output of an uninterrupted comparison, and what its models, batches and losses were."""
    output = tmp_path_factory.mktemp("compared")
    seen: list[dict[str, Any]] = []

    def watch(trainer: ImageTrainer, model: Any, inputs: dict[str, Any]) -> None:
        seen.append(
            {
                "pixels": inputs["pixel_values"].clone(),
                "labels": inputs["labels"].clone(),
                "first": model.emosynthnet.block1.convs[0].conv.weight.detach().clone(),
                "last": model.emosynthnet.dense2.weight.detach().clone(),
                "classifier": model.config.classifier,
                "progress": model.training_loss.progress,
            }
        )

    with pytest.MonkeyPatch.context() as patch:
        before_each_training_step(patch, watch)
        command = [recipe, "--data", str(faces), "--output", str(output), "--seeds", "2"]
        assert main([*command, "--pairs", "none/ce,am/mixed_ce,mam:differentiable=true/sce"]) == 0
    return {"output": output, "steps": seen}


def test_every_pair_sees_the_same_pictures_from_the_same_weights(compared: dict[str, Any]) -> None:
    # 2 seeds x 3 pairs x 6 steps, the pairs of a seed one after the other.
    steps = compared["steps"]
    assert len(steps) == 36
    seeds = [[steps[start + 6 * pair :][:6] for pair in range(3)] for start in (0, 18)]
    for plain, *others in seeds:
        for other in others:
            assert torch.equal(plain[0]["first"], other[0]["first"])
            assert torch.equal(plain[0]["last"], other[0]["last"])
            for ours, theirs in zip(plain, other, strict=True):
                assert torch.equal(ours["pixels"], theirs["pixels"])
                assert torch.equal(ours["labels"], theirs["labels"])
    assert not torch.equal(seeds[0][0][0]["first"], seeds[1][0][0]["first"])
    assert not torch.equal(seeds[0][0][0]["pixels"], seeds[1][0][0]["pixels"])


def test_schedules_get_the_progress_and_angular_margins_their_classifier(
    compared: dict[str, Any],
) -> None:
    plain, angular, mam = (compared["steps"][start : start + 6] for start in (0, 6, 12))
    for steps, classifier in ((plain, "linear"), (angular, "cosine"), (mam, "linear")):
        assert {step["classifier"] for step in steps} == {classifier}
        assert [step["progress"] for step in steps] == [number / 6 for number in range(6)]


def test_the_results_say_what_was_done(compared: dict[str, Any], faces: Path) -> None:
    output = compared["output"]
    summary = json.loads((output / "comparison.json").read_text())
    assert summary["budget"]["epochs"] == 2
    assert summary["budget"]["steps"] == 6
    assert summary["data"]["name"] == "my_faces"
    assert str(faces) not in json.dumps(summary)
    assert summary["data"]["train"]["images_by_class"] == [6, 0, 0, 6, 6, 0, 0]
    assert "margin" not in summary["recipe"]["model"]
    names = ["none/ce", "am/mixed_ce", "mam:differentiable=true/sce"]
    assert [pair["pair"] for pair in summary["pairs"]] == names
    for pair in summary["pairs"]:
        assert [run["seed"] for run in pair["runs"]] == [5, 6]
        for run, accuracy in zip(
            pair["runs"], pair["last_epoch"]["accuracy"]["values"], strict=True
        ):
            assert run["curves"]["epoch"] == [1, 2]
            assert all(len(column) == 2 for column in run["curves"].values())
            assert run["curves"]["validation_accuracy"][-1] == accuracy
        assert ("margin_by_class" in pair) == pair["pair"].startswith("mam")
    # Only what the three classes with pictures say.
    assert list(summary["pairs"][2]["margin_by_class"]) == ["angry", "happy", "sad"]
    assert not list(output.glob("*/checkpoint-*"))
    for name in ("comparison.png", "comparison-margins.png"):
        assert Image.open(output / name).size[0] > 500


def count_training_steps(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """A list that each training step adds its number to; number `stop_at` of them is interrupted,
    as by Ctrl-C."""
    steps: list[int] = []

    def watch(trainer: ImageTrainer, model: Any, inputs: dict[str, Any]) -> None:
        steps.append(trainer.state.global_step)
        if len(steps) == stop_at:
            raise KeyboardInterrupt

    before_each_training_step(monkeypatch, watch)
    return steps


def folders(inside: Path) -> list[str]:
    return [path.name for path in inside.iterdir() if path.is_dir()]


def test_a_stopped_comparison_goes_on_to_the_same_results(
    compared: dict[str, Any], faces: Path, recipe: str, tmp_path: Path
) -> None:
    output, results = tmp_path / "runs", tmp_path / "comparison.json"
    command = [recipe, "--data", str(faces), "--output", str(output), "--results", str(results)]
    command += ["--seeds", "2", "--pairs", "none/ce,am/mixed_ce,mam:differentiable=true/sce"]
    with pytest.MonkeyPatch.context() as patch:
        count_training_steps(patch, stop_at=11)  # in the second epoch of the second run
        with pytest.raises(KeyboardInterrupt):
            main(command)
    # The first run is in the results and nowhere else, the second has its folder.
    stored = json.loads(results.read_text())
    assert [(pair["pair"], len(pair["runs"])) for pair in stored["pairs"]] == [("none/ce", 1)]
    first, second = (output / name for name in ("none-ce-seed5", "am-mixed_ce-seed5"))
    assert folders(output) == [second.name]
    assert [path.name for path in second.glob("checkpoint-*")] == ["checkpoint-3"]
    (second / "checkpoint-6").mkdir()  # stopped while it saved: no state in it
    first.mkdir()  # stopped after the results were written, before the folder was removed
    shutil.copy(second / "environment.json", first)

    with pytest.MonkeyPatch.context() as patch:
        steps = count_training_steps(patch)
        assert main(command) == 0
    assert steps == [3, 4, 5] + 4 * [0, 1, 2, 3, 4, 5]
    assert not folders(output)
    reference = compared["output"] / "comparison.json"
    assert_near(without_times(results), without_times(reference))

    with pytest.MonkeyPatch.context() as patch:
        steps = count_training_steps(patch)
        assert main(command) == 0
    assert steps == []


def test_other_pairs_and_more_seeds_are_added_to_what_is_there(
    compared: dict[str, Any], faces: Path, recipe: str, tmp_path: Path
) -> None:
    results = tmp_path / "comparison.json"
    before = json.loads((compared["output"] / "comparison.json").read_text())
    for pair in before["pairs"]:
        pair["runs"] = pair["runs"][:1]  # of seed 5
    results.write_text(json.dumps(before))
    command = [recipe, "--data", str(faces), "--output", str(tmp_path), "--results", str(results)]
    with pytest.MonkeyPatch.context() as patch:
        steps = count_training_steps(patch)
        assert main([*command, "--pairs", "sm/ce,none/ce", "--seeds", "2"]) == 0
    assert len(steps) == 3 * 6  # sm/ce twice, none/ce with seed 6
    after = {pair["pair"]: pair for pair in json.loads(results.read_text())["pairs"]}
    assert list(after) == [*(pair["pair"] for pair in before["pairs"]), "sm/ce"]
    assert [run["seed"] for run in after["none/ce"]["runs"]] == [5, 6]
    for pair in before["pairs"]:
        assert after[pair["pair"]]["runs"][0] == pair["runs"][0]
    assert len(after["am/mixed_ce"]["last_epoch"]["accuracy"]["values"]) == 1
    assert len(after["sm/ce"]["last_epoch"]["accuracy"]["values"]) == 2


@pytest.fixture
def black_pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "my_faces"  # the name alone does not make it the same
    for split in ("train", "validation"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            Image.new("L", (32, 32)).save(folder / split / name / "0.png")
    return folder


def test_results_of_another_recipe_or_of_other_data_are_left_alone(
    compared: dict[str, Any],
    faces: Path,
    recipe: str,
    black_pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = compared["output"] / "comparison.json"
    before = results.read_bytes()
    command = [recipe, "--output", str(tmp_path / "runs"), "--results", str(results)]
    command += ["--pairs", "none/ce"]
    assert main([*command, "--data", str(faces), "--set", "training.num_train_epochs=3"]) == 1
    assert re.search(
        r"comparison.json holds a comparison by another recipe, it differs in "
        r"training.num_train_epochs: give another --results",
        capsys.readouterr().err,
    )
    assert main([*command, "--data", str(black_pictures)]) == 1
    assert "comparison.json was made with other data" in capsys.readouterr().err
    assert results.read_bytes() == before
    assert not folders(tmp_path / "runs")


def test_results_from_before_a_setting_came_are_gone_on_with(
    compared: dict[str, Any], recipe: str, tmp_path: Path
) -> None:
    stored = json.loads((compared["output"] / "comparison.json").read_text())
    del stored["recipe"]["ema_decay"]
    del stored["recipe"]["augmentation"]["noise"]
    older = tmp_path / "comparison.json"
    older.write_text(json.dumps(stored))
    ours = replace(load_recipe(Path(recipe)), model=stored["recipe"]["model"])
    assert read_results(older, ours) == stored
    with pytest.raises(ValueError, match=r"differs in ema_decay: give another --results"):
        read_results(older, replace(ours, ema_decay=0.9))


def test_an_unfinished_run_of_another_recipe_or_of_other_data_is_left_alone(
    faces: Path,
    recipe: str,
    black_pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "runs"
    command = [recipe, "--output", str(output), "--pairs", "none/ce"]
    with pytest.MonkeyPatch.context() as patch:
        count_training_steps(patch, stop_at=5)
        with pytest.raises(KeyboardInterrupt):
            main([*command, "--data", str(faces)])
    folder = output / "none-ce-seed5"
    assert (folder / "checkpoint-3").is_dir()
    capsys.readouterr()
    for changed, message in (
        (
            ["--data", str(faces), "--set", "augmentation.flip=0.25"],
            r"none-ce-seed5 holds a run of another recipe, it differs in augmentation.flip: "
            r"give another --output",
        ),
        (["--data", str(black_pictures)], r"none-ce-seed5 was made with other data"),
    ):
        assert main([*command, *changed]) == 1
        assert re.search(message, capsys.readouterr().err)
        assert (folder / "checkpoint-3").is_dir()
        assert not (output / "comparison.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--margins", "none,man", "--losses", "ce"], "margin must be one of none, .*got 'man'"),
        (["--margins", "none", "--losses", "ce,see"], "loss must be one of ce, .*got 'see'"),
        (["--pairs", "mam:eps=1/ce"], "margin_kwargs of mam may hold epsilon, .*got eps"),
        (["--pairs", "mam:epsilon=-1/ce"], "epsilon must be above 0, got -1"),
        (["--pairs", "mam:epsilon/ce"], "an argument must be name=value, got 'epsilon'"),
        (["--pairs", "mam"], "a pair must be MARGIN/LOSS, got mam"),
        (["--pairs", "none/ce,none/ce"], "each pair may be given once"),
        (["--margins", "none"], "either --pairs, or both --margins and --losses"),
        (["--pairs", "none/ce", "--losses", "ce"], "either --pairs, or both"),
        (["--pairs", "none/ce", "--seeds", "0"], "seeds must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_compared_is_named_before_training(
    faces: Path,
    recipe: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    command = [recipe, "--data", str(faces), "--output", str(tmp_path / "out"), *arguments]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not list(tmp_path.glob("out/*/recipe.yaml"))


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("fer2013", ["none/ce", "a/ce"]),
        ("cifar10", ["none/mse", "mam/sce"]),
        ("mnist", ["none/ce", "mam/sce"]),
    ],
)
def test_every_recipe_for_comparisons_runs(
    name: str, pairs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = RECIPES / f"{name}.yaml"
    recipe = load_recipe(path)
    DATA[name](tmp_path / "data")
    command = [str(path), "--data", str(tmp_path / "data"), "--output", str(tmp_path / "runs")]
    changes = ["training.num_train_epochs=1"]
    if recipe.network == "emosynthnet":
        changes += [f"model.{field}={json.dumps(width)}" for field, width in TINY.items()]
    command += [part for change in changes for part in ("--set", change)]
    assert main([*command, "--pairs", ",".join(pairs)]) == 0
    summary = json.loads((tmp_path / "runs" / "comparison.json").read_text())
    assert [pair["pair"] for pair in summary["pairs"]] == pairs
    assert summary["recipe"]["model"]["image_size"] == (48 if name == "fer2013" else 32)
    assert summary["data"]["train"]["images"] > summary["data"]["validation"]["images"] / 2 > 0


def test_no_recipe_for_comparisons_is_left_out() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == ["cifar10", "fer2013", "mnist"]


def test_a_margin_that_the_network_cannot_have_is_named_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mnist(tmp_path)
    command = [str(RECIPES / "mnist.yaml"), "--data", str(tmp_path / "mnist")]
    command += ["--output", str(tmp_path / "runs"), "--pairs", "none/ce,am/ce"]
    assert main(command) == 1
    assert "classifier must be 'linear', got 'cosine' for margin 'am'" in capsys.readouterr().err
    assert not folders(tmp_path / "runs")


def test_every_margin_is_tried_with_every_loss() -> None:
    pairs = parse_pairs(None, "none, mam:maximum=2", "ce,sce")
    want = ["none/ce", "none/sce", "mam:maximum=2/ce", "mam:maximum=2/sce"]
    assert [pair.name for pair in pairs] == want
    assert pairs[3].margin.kwargs == {"maximum": 2}


def test_mean_and_spread_by_hand() -> None:
    # Mean 0.5; deviations -0.1, 0, 0.1: variance 0.02 / (3 - 1) = 0.01.
    got = spread([0.4, 0.5, 0.6])
    assert got == {"mean": 0.5, "standard_deviation": 0.1, "values": [0.4, 0.5, 0.6]}
    assert spread([0.25]) == {"mean": 0.25, "standard_deviation": None, "values": [0.25]}


def test_margins_by_class_by_hand() -> None:
    # Centred logits: (4, 0, -4), (2, -1, -1), (0, 0, 0); margins log(4.2), log(2.2) and, as
    # log(0.2) < 0, none. Class b has the first and the third sample, class c none.
    logits = np.array([[9.0, 5.0, 1.0], [3.0, 0.0, 0.0], [7.0, 7.0, 7.0]], dtype=np.float32)
    split: Any = SimpleNamespace(labels=torch.tensor([1, 0, 1]), label_names=["a", "b", "c"])
    want = {"a": math.log(2.2), "b": math.log(4.2) / 2}
    got = margins_by_class(Choice("mam"), logits, split)
    assert got["margin_by_class"] == pytest.approx(want)
    # Lowering the label's logit by m lowers log p / (1 - p) by m.
    assert got["log_odds_by_class"] == pytest.approx(want)
    assert margins_by_class(Choice("mam_all"), logits, split)["margin_by_class"] == (
        pytest.approx(want)
    )
    # Eq. 4.14 as printed: mean(x) + log(largest + 0.2), in [0, 4] without the mean.
    verbatim = {"a": 1 + math.log(3.2), "b": ((5 + math.log(9.2)) + (7 + math.log(7.2))) / 2}
    got = margins_by_class(Choice("mam_verbatim"), logits, split)
    assert got == {"log_odds_by_class": pytest.approx(verbatim, rel=1e-6)}
    assert margins_by_class(Choice("sm"), logits, split) == {}


def test_mam_alls_log_odds_by_hand() -> None:
    # Two classes, logits (2, 0), margin log(1.2): each class's own ratio, then divided by the sum.
    logits = np.array([[2.0, 0.0]], dtype=np.float32)
    split: Any = SimpleNamespace(labels=torch.tensor([0]), label_names=["a", "b"])
    margin = math.log(1.2)
    first = 1 / (1 + math.exp(-(2 - margin)))
    second = 1 / (1 + math.exp(2 + margin))
    want = 2 - math.log(first / second)
    got = margins_by_class(Choice("mam_all"), logits, split)
    assert got["log_odds_by_class"]["a"] == pytest.approx(want)


def test_a_pair_is_checked_as_it_is_made() -> None:
    with pytest.raises(ValueError, match="margin must be one of"):
        Pair(Choice("cosface"), Choice("ce"))


def test_the_progress_reaches_every_margin_loss() -> None:
    model = torch.nn.ModuleList([MarginLoss(3, "none", "mixed_ce"), torch.nn.Linear(1, 1)])
    state: Any = SimpleNamespace(global_step=3, max_steps=12)
    control: Any = None
    ProgressCallback().on_step_begin(control, state, control, model=model)
    assert model[0].progress == 0.25
    assert compare.SCORES["loss"] == "validation_loss"
