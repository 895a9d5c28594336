"""Training as a user runs it, on made-up pictures."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    pipeline,
)

from emosynthnet_hf import EmoSynthNetForImageClassification
from emosynthnet_hf.data import EXPRESSIONS, PackedImages
from recipe import load_recipe
from tests import tiny_recipe
from tests.tiny_recipe import CLASSES, write_faces
from train import image_processor, inverse_frequency, logged_to, main, model_config, pack
from trainer import ImageTrainer, WeightAveragingCallback, average_weights

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
RECIPE: dict[str, Any] = tiny_recipe.RECIPE | {
    "training": {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 6,
        "logging_steps": 1,
        "learning_rate": 1.0e-3,
        "save_total_limit": None,
        "seed": 0,
    },
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise whose brightness tells the class: 18 training, 9 validation pictures."""
    folder = tmp_path_factory.mktemp("data") / "my_faces"
    write_faces(folder, {"train": 6, "validation": 3, "test": 1}, 40, 36)
    return folder


def written(folder: Path, **changes: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of an uninterrupted run. Its test split holds a file that is no picture."""
    folder = tmp_path_factory.mktemp("run")
    (faces / "test" / "sad" / "broken.png").write_text("no picture")
    output = folder / "out"
    assert main([written(folder), "--data", str(faces), "--output", str(output)]) == 0
    return output


def test_a_run_leaves_its_records(run: Path) -> None:
    rows = json.loads((run / "training_log.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["train_loss"] > 0 for row in rows)
    seconds = [row["run_seconds"] for row in rows]
    assert seconds == sorted(seconds)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["data"]["train"]["images"] == 18
    assert "starting from scratch" in (run / "train.log").read_text()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["training"]["num_train_epochs"] == 3


def test_the_final_checkpoint_scores_as_its_results_say(run: Path, faces: Path) -> None:
    final = run / "final"
    weights = load_file(final / "model.safetensors")
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    assert kinds == {torch.bfloat16}
    model = AutoModelForImageClassification.from_pretrained(final)
    assert model.dtype == torch.float32
    assert model.config.temperature > 0
    assert model.config.temperature != 1
    results = json.loads((final / "results" / "my_faces-validation.json").read_text())
    matrix = np.array(results["views"]["single_crop"]["confusion_matrix"])
    classify = pipeline(
        "image-classification",
        model=model,
        image_processor=AutoImageProcessor.from_pretrained(final),
    )
    counted = np.zeros_like(matrix)
    for path in sorted((faces / "validation").glob("*/*.png")):
        (best,) = classify(str(path), top_k=1)
        counted[EXPRESSIONS.index(path.parent.name), EXPRESSIONS.index(best["label"])] += 1
    np.testing.assert_array_equal(counted, matrix)


def test_the_best_epoch_is_taken(run: Path) -> None:
    rows = json.loads((run / "training_log.json").read_text())
    accuracies = [row["validation"]["accuracy"] for row in rows]
    state = json.loads((run / f"checkpoint-{rows[-1]['step']}" / "trainer_state.json").read_text())
    assert state["best_metric"] == max(accuracies)
    best = rows[accuracies.index(max(accuracies))]["step"]
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    want = load_file(run / f"checkpoint-{best}" / "model.safetensors")
    got = load_file(run / "final" / "model.safetensors")
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor.to(got[name].dtype)), name


def test_a_killed_run_resumes_to_the_same_weights(run: Path, faces: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "training" / "train.py"), written(tmp_path)]
    command += ["--data", str(faces), "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (output / "checkpoint-3" / "trainer_state.json").exists():
        assert process.poll() is None, "training ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "final").exists()
    assert main([command[2], *command[3:], "--resume"]) == 0
    assert "resuming from" in (output / "train.log").read_text()
    want = load_file(run / "checkpoint-9" / "model.safetensors")
    got = load_file(output / "checkpoint-9" / "model.safetensors")
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_two_scale_checkpoints_carry_their_own_factor(faces: Path, tmp_path: Path) -> None:
    two_scale = {"rescale_factor": 1 / 512, "switch_epoch": 2}
    recipe = written(tmp_path, two_scale=two_scale, processor={"do_normalize": False})
    output = tmp_path / "out"
    assert main([recipe, "--data", str(faces), "--output", str(output)]) == 0
    factors = [
        json.loads((output / f"checkpoint-{step}" / "preprocessor_config.json").read_text())[
            "rescale_factor"
        ]
        for step in (3, 6, 9)
    ]
    assert factors == pytest.approx([1 / 255, 1 / 255, 1 / 512])


def test_the_moving_average_by_hand(tmp_path: Path) -> None:
    class Scalar(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([5.0]))
            self.register_buffer("count", torch.tensor(0))

    model, callback = Scalar(), WeightAveragingCallback(0.15)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    state, control = TrainerState(), TrainerControl()

    def call(event: str) -> None:
        getattr(callback, event)(arguments, state, control, model=model)

    call("on_train_begin")
    call("on_epoch_begin")
    for state.global_step, weight in ((1, 1.0), (2, 2.0)):
        with torch.no_grad():
            model.weight.fill_(weight)
        call("on_step_end")
    # Decays min(0.15, 1/10) and min(0.15, 2/11): 5 -> 0.1 * 5 + 0.9 * 1 -> 0.15 * 1.4 + 0.85 * 2
    average = 0.15 * 1.4 + 0.85 * 2
    call("on_epoch_end")
    assert model.weight.item() == pytest.approx(average)
    (tmp_path / "checkpoint-2").mkdir()
    call("on_save")
    call("on_epoch_begin")
    assert model.weight.item() == 2

    with torch.no_grad():
        model.weight.fill_(average)  # as a resumed Trainer has loaded it
    resumed = callback = WeightAveragingCallback(0.15)
    call("on_train_begin")
    assert model.weight.item() == 2
    assert resumed.average["weight"].item() == pytest.approx(average)


def test_averaging_leaves_the_training_as_it_is_and_resumes(
    run: Path, faces: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [written(tmp_path, ema_decay=0.9), "--data", str(faces), "--output", str(output)]
    assert main(command) == 0
    want = load_file(run / "checkpoint-9" / "model.safetensors")
    raw = load_file(output / "checkpoint-9" / "raw.safetensors")
    saved = load_file(output / "checkpoint-9" / "model.safetensors")
    for name, tensor in raw.items():
        torch.testing.assert_close(tensor, want[name], rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.equal(saved["classifier.weight"], raw["classifier.weight"])

    again = tmp_path / "again"
    shutil.copytree(output / "checkpoint-6", again / "checkpoint-6")
    assert main([*command[:-1], str(again), "--resume"]) == 0
    resumed = load_file(again / "checkpoint-9" / "model.safetensors")
    for name, tensor in saved.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    (again / "checkpoint-9" / "raw.safetensors").unlink()
    command[0] = written(
        tmp_path, ema_decay=0.9, training=RECIPE["training"] | {"num_train_epochs": 4}
    )
    assert main([*command[:-1], str(again), "--resume"]) == 1


def test_the_mean_of_weights_has_statistics_of_its_own(tmp_path: Path) -> None:
    # Classes lie one after the other, each as long as a batch: taken in that order, the variance
    # within batches would be a small part of the variance over all pictures.
    write_faces(tmp_path, {"train": 128, "validation": 1}, 32, 32)
    recipe = load_recipe(Path(written(tmp_path)), [f"data.id={tmp_path}"])
    images = pack(recipe, str(tmp_path))["train"]
    config = model_config(recipe, images.label_names)
    processor = image_processor(recipe, config)
    models = [EmoSynthNetForImageClassification(config) for _ in range(3)]
    before = [
        {name: value.clone() for name, value in model.state_dict().items()} for model in models
    ]
    averaged = average_weights(models, images, processor)
    for name, parameter in averaged.named_parameters():
        want = sum(state[name].double() for state in before) / 3
        torch.testing.assert_close(parameter.double(), want, rtol=1e-5, atol=1e-7, msg=name)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    first = averaged.emosynthnet.block1.convs[0]
    pixels = (images.pixels.double() / 255 - processor.image_mean) / processor.image_std
    convolved = torch.nn.functional.conv2d(pixels, first.conv.weight.double(), padding=1)
    activations = torch.nn.functional.elu(convolved)
    got = first.norm.running_mean.double(), first.norm.running_var.double()
    torch.testing.assert_close(got[0], activations.mean(dim=(0, 2, 3)), rtol=0.02, atol=0.005)
    torch.testing.assert_close(got[1], activations.var(dim=(0, 2, 3)), rtol=0.1, atol=1e-4)


def test_a_run_is_averaged_with_another_checkpoint_also_after_its_end(
    run: Path, faces: Path, tmp_path: Path
) -> None:
    member, output = str(run / "final"), tmp_path / "out"
    plain = written(tmp_path, start_from=member, model={})
    command = [plain, "--data", str(faces), "--output", str(output)]
    assert main(command) == 0
    assert main([*command, "--resume", "--set", f"average_with=[{member}]"]) == 0
    state = json.loads((output / "checkpoint-9" / "trainer_state.json").read_text())
    best = load_file(Path(state["best_model_checkpoint"]) / "model.safetensors")
    other, got = (
        load_file(folder / "model.safetensors") for folder in (run / "final", output / "final")
    )
    names = [name for name in best if "running" not in name and best[name].is_floating_point()]
    for name in names:
        want = (best[name] + other[name].float()) / 2
        torch.testing.assert_close(got[name].float(), want, rtol=0.008, atol=1e-6, msg=name)
    assert not torch.equal(got[names[0]], best[names[0]].bfloat16())
    stored = yaml.safe_load((output / "recipe.yaml").read_text())
    assert stored["average_with"] == [member]


def test_what_cannot_be_averaged_is_named_before_training(
    run: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    member = str(run / "final")
    wider = RECIPE["model"] | {"synthesis_widths": [8, 4]}
    other_labels = tmp_path / "labels"
    shutil.copytree(run / "final", other_labels)
    config = json.loads((other_labels / "config.json").read_text())
    config["id2label"] |= {"0": "sad", "4": "angry"}
    config["label2id"] |= {"sad": 0, "angry": 4}
    (other_labels / "config.json").write_text(json.dumps(config))
    for changes, message in (
        ({"average_with": [member], "model": wider}, "other weights than the recipe's"),
        ({"average_with": [str(other_labels)]}, "other labels than the recipe's"),
        (
            {"average_with": [member], "processor": {"image_mean": 0.3}},
            "other preprocessing than the recipe's",
        ),
        ({"average_with": member}, f"average_with must be a list, got '{member}'"),
        (
            {
                "average_with": [member],
                "two_scale": {"rescale_factor": 1 / 512, "switch_epoch": 2},
            },
            "average_with must be left out with two_scale",
        ),
    ):
        output = tmp_path / "out"
        command = [written(tmp_path, **changes), "--data", str(faces), "--output", str(output)]
        assert main(command) == 1
        assert message in capsys.readouterr().err
        assert not list(output.glob("checkpoint-*"))


def test_class_weights_by_hand() -> None:
    # Six samples, three classes: 3, 1 and 2 of them. Weights 6 / (3 * 3), 6 / 3 and 6 / (3 * 2).
    weights = inverse_frequency(torch.tensor([0, 0, 0, 1, 2, 2]), 3)
    assert weights == pytest.approx([2 / 3, 2, 1])
    assert inverse_frequency(torch.tensor([0, 0]), 2) == [0.5, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modle": {}}, "may hold data, model, .*got modle"),
        ({"augmentation": {"blur": 1}}, "augmentation may hold flip, .*got blur"),
        ({"augmentation": {"flip": 2.0}}, r"flip must be in \[0, 1\], got 2.0"),
        ({"class_weights": "rare"}, "class_weights must be one of none, .*got 'rare'"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        (
            {"ema_decay": 0.9, "training": {"eval_strategy": "steps"}},
            "ema_decay needs training.eval_strategy epoch, got steps",
        ),
        ({"training": {"epochs": 3}}, "section training: .*epochs"),
        ({"model": {"preset": "huge"}}, "preset must be one of .*got 'huge'"),
        ({"data": {"id": "faces", "adapter": "cifar10"}}, "unknown labels"),
    ],
)
def test_a_wrong_recipe_is_named_before_training(
    faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    output = tmp_path / "out"
    assert main([written(tmp_path, **changes), "--data", str(faces), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert not list(output.glob("checkpoint-*"))


def test_an_unreadable_picture_is_named_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation"):
        for name in CLASSES:
            (tmp_path / "faces" / split / name).mkdir(parents=True)
            Image.new("L", (32, 32)).save(tmp_path / "faces" / split / name / "0.png")
    (tmp_path / "faces" / "train" / "sad" / "bad.png").write_text("no picture")
    data = str(tmp_path / "faces")
    assert main([written(tmp_path), "--data", data, "--output", str(tmp_path / "out")]) == 1
    assert "bad.png" in capsys.readouterr().err


def test_logging_is_as_it_was_after_a_run(tmp_path: Path) -> None:
    loggers = (logging.getLogger(), logging.getLogger("transformers"))

    def state() -> list[tuple[int, bool, list[logging.Handler]]]:
        return [(each.level, each.propagate, list(each.handlers)) for each in loggers]

    before = state()
    with logged_to(tmp_path / "train.log"):
        logging.getLogger("transformers").warning("of transformers")
        logging.getLogger("emosynthnet_hf").info("of the package")
    assert state() == before
    text = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert re.findall("of .*", text) == ["of transformers", "of the package"]


def test_numbers_with_an_exponent_alone_are_numbers(tmp_path: Path) -> None:
    recipe = load_recipe(Path(written(tmp_path)), ["training.weight_decay=5e-4"])
    assert recipe.training["weight_decay"] == 0.0005


def test_mixup_trains_on_blended_targets_with_the_loss_of_one_batch(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, float, torch.Tensor]] = []
    compute_loss = ImageTrainer.compute_loss

    def watched(self: ImageTrainer, model: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
        loss, outputs = compute_loss(self, model, inputs, **(kwargs | {"return_outputs": True}))
        if model.training:
            want = torch.nn.functional.cross_entropy(outputs.logits.float(), inputs["labels"])
            seen.append((inputs["labels"], loss.item(), want))
        return (loss, outputs) if kwargs.get("return_outputs") else loss

    monkeypatch.setattr(ImageTrainer, "compute_loss", watched)
    model = RECIPE["model"] | {"margin": "none", "loss": "ce"}
    recipe = written(tmp_path, mixup_alpha=0.4, model=model)
    output = tmp_path / "out"
    assert main([recipe, "--data", str(faces), "--output", str(output)]) == 0
    assert len(seen) == 9
    for targets, got, want in seen:
        assert targets.shape == (6, 7)
        assert got == pytest.approx(want.item(), rel=1e-5)
    assert any(((targets > 0) & (targets < 1)).any() for targets, _, _ in seen)


def test_a_teachers_probabilities_are_blended_with_the_labels(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher" / "final"
    command = [written(tmp_path), "--data", str(faces)]
    assert main([*command, "--output", str(teacher.parent)]) == 0

    seen: dict[bytes, torch.Tensor] = {}
    collate = PackedImages.collate

    def watched(batch: Any) -> Any:
        for pixels, labels in zip(batch["pixel_values"], batch["labels"], strict=True):
            seen[pixels.numpy().tobytes()] = labels
        return collate(batch)

    monkeypatch.setattr(PackedImages, "collate", watched)
    distillation = {"teacher": str(teacher), "weight": 0.25}
    taught = [written(tmp_path, distillation=distillation), "--data", str(faces)]
    assert main([*taught, "--output", str(tmp_path / "student")]) == 0

    # As somebody else would ask the teacher: one file at a time, in float32.
    classify = pipeline("image-classification", str(teacher), top_k=len(EXPRESSIONS))
    processor = AutoImageProcessor.from_pretrained(teacher)
    for path in sorted((faces / "train").glob("*/*.png")):
        picture = Image.open(path)
        views = [classify(view) for view in (picture, ImageOps.mirror(picture))]
        scores = [{row["label"]: row["score"] for row in rows} for rows in views]
        want = [
            0.25 * (scores[0][name] + scores[1][name]) / 2 + 0.75 * (name == path.parent.name)
            for name in EXPRESSIONS
        ]
        packed = processor(picture, do_rescale=False, do_normalize=False)["pixel_values"][0]
        got = seen[packed.astype(np.uint8).tobytes()]
        assert got.tolist() == pytest.approx(want, abs=5e-3)  # the teacher may be asked in bfloat16

    another = written(tmp_path, distillation=distillation, data={"id": "faces", "adapter": None})
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            Image.new("L", (32, 32)).save(tmp_path / "pets" / split / name / "0.png")
    arguments = [another, "--data", str(tmp_path / "pets"), "--output", str(tmp_path / "other")]
    assert main(arguments) == 1
    assert "must know cat, dog in this order, got angry" in capsys.readouterr().err


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.5])
def test_a_teachers_weight_is_checked(tmp_path: Path, weight: float) -> None:
    recipe = written(tmp_path, distillation={"teacher": "x", "weight": weight})
    with pytest.raises(ValueError, match=f"weight must be in \\(0, 1\\], got {weight}"):
        load_recipe(Path(recipe))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_makes_a_model(path: Path) -> None:
    recipe = load_recipe(path, ["training.num_train_epochs=1"])
    assert recipe.training["num_train_epochs"] == 1
    config = model_config(recipe, EXPRESSIONS)
    assert config.num_labels == 7


def test_the_readmes_example_for_the_wheel_alone(faces: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- trainer-example -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert match is not None
    code = match[1].replace('"small"', '"quarter"').replace("epochs=20", "epochs=1")
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    (tmp_path / "my_faces").symlink_to(faces)
    (faces / "test" / "sad" / "broken.png").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "runs" / "mine" / "final")
    assert model.config.num_labels == 7
    assert (
        AutoImageProcessor.from_pretrained(tmp_path / "runs" / "mine" / "final").num_channels == 1
    )
