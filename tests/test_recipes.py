"""Every recipe run end to end on made-up data in the right layout: a step or two, tiny widths."""

import io
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file

import ckplus_frames
import folds
import train
from emosynthnet_hf import (
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    EmoSynthNetImageProcessor,
    evaluation,
)
from emosynthnet_hf.data import CIFAR10, EXPRESSIONS, load_splits
from recipe import load_recipe
from tests.tiny_recipe import TINY

RECIPES = Path(__file__).resolve().parent.parent / "training" / "recipes"
CKPLUS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
SUBJECTS = range(10, 22)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(number: int, *shape: int) -> Image.Image:
    """Noise of a brightness that tells the class."""
    noise = np.random.default_rng().integers(0, 20, shape) + 20 * number
    return Image.fromarray(noise.astype(np.uint8))


def write_table(
    path: Path, image_column: str, names: tuple[str, ...], each: int, *shape: int
) -> None:
    """A split as the Hub has it: `each` pictures of every class, numbers with names for labels."""
    numbers = [number for number in range(len(names)) for _ in range(each)]
    rows: dict[str, list[Any]] = {image_column: [], "label": numbers}
    for number in numbers:
        buffer = io.BytesIO()
        picture(number, *shape).save(buffer, "PNG")
        rows[image_column].append({"bytes": buffer.getvalue(), "path": None})
    table = Dataset.from_dict(rows).cast_column(image_column, ImageFeature())
    path.parent.mkdir(parents=True, exist_ok=True)
    table.cast_column("label", ClassLabel(names=list(names))).to_parquet(path)


DIGITS = tuple(map(str, range(10)))


def write_mnist(root: Path) -> None:
    for split, each in (("train", 4), ("test", 1)):
        write_table(
            root / "mnist" / f"{split}-00000-of-00001.parquet", "image", DIGITS, each, 28, 28
        )


def write_svhn(root: Path) -> None:
    """With its two configurations; the other one has no labels of pictures."""
    lines = ["---", "configs:"]
    for config in ("full_numbers", "cropped_digits"):
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "test", "extra"):
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
            file = root / config / f"{split}-00000-of-00001.parquet"
            write_table(file, "image" if config == "cropped_digits" else "x", DIGITS, 4, 32, 32, 3)
    (root / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_cifar10(root: Path) -> None:
    for split, each in (("train", 4), ("test", 1)):
        file = root / "plain_text" / f"{split}-00000-of-00001.parquet"
        write_table(file, "img", CIFAR10, each, 32, 32, 3)


def write_fer2013(root: Path) -> None:
    for split in ("train", "valid", "test"):
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        write_table(file, "image", EXPRESSIONS, 2, 48, 48)


def write_rafdb(root: Path) -> None:
    for split, each in (("train", 4), ("test", 1)):
        for number in range(1, 8):
            (root / split / str(number)).mkdir(parents=True)
            for row in range(each):
                name = f"{split}_{number}{row:04}_aligned.jpg"
                picture(number, 100, 100, 3).save(root / split / str(number) / name)


def write_ckplus(root: Path) -> None:
    """Two last frames of a sequence of each class, its first frame as neutral."""
    for folder in (*CKPLUS, "neutral"):
        (root / folder).mkdir(parents=True)
    for subject in SUBJECTS:
        for sequence, folder in enumerate(CKPLUS, 1):
            for frame, place in ((1, "neutral"), (13, folder), (14, folder)):
                name = f"S{subject:03}_{sequence:03}_{frame:08}.png"
                picture(sequence, 64, 49).save(root / place / name)


def write_ckplus_last_frames(root: Path) -> None:
    for sequence, folder in enumerate(CKPLUS, 1):
        (root / folder).mkdir(parents=True)
        for subject in SUBJECTS:
            for frame in (12, 13, 14):
                name = f"S{subject:03}_{sequence:03}_{frame:08}.png"
                picture(sequence, 48, 48).save(root / folder / name)


DATA: dict[str, Callable[[Path], None]] = {
    "cifar10": write_cifar10,
    "ckplus": write_ckplus,
    "ckplus-last-frames": write_ckplus_last_frames,
    "fer2013": write_fer2013,
    "fer2013-two-cores": write_fer2013,
    "fer2013-two-cores-second": write_fer2013,
    "fer2013-two-cores-third": write_fer2013,
    "mnist": write_mnist,
    "rafdb": write_rafdb,
    "svhn": write_svhn,
}
LABELS = {
    "cifar10": CIFAR10,
    "ckplus-last-frames": CKPLUS,
    "mnist": DIGITS,
    "svhn": DIGITS,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny one for expressions, calibrated, with a normalisation of its own."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    torch.manual_seed(7)  # not the recipes' seed, which would make the same weights
    config = EmoSynthNetConfig(
        **TINY,
        id2label=dict(enumerate(EXPRESSIONS)),
        label2id={name: number for number, name in enumerate(EXPRESSIONS)},
        image_size=32,
        temperature=1.7,
        class_weights=[1, 2, 3, 4, 5, 6, 7],
    )
    EmoSynthNetForImageClassification(config).to(torch.bfloat16).save_pretrained(folder)
    processor = EmoSynthNetImageProcessor.from_model_config(config, image_mean=0.4, image_std=0.3)
    processor.save_pretrained(folder)
    return folder


def settings(name: str, checkpoint: Path, *others: str) -> list[str]:
    """Overrides that make a recipe small."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    if recipe.start_from is None:
        others += tuple(f"model.{field}={json.dumps(width)}" for field, width in TINY.items())
    else:
        others += (f"start_from={checkpoint}",)
    if recipe.distillation is not None:
        others += (f"distillation.teacher={checkpoint}",)
    if recipe.average_with:
        others += (f"average_with=[{checkpoint}]",)
    return [part for value in ("training.num_train_epochs=1", *others) for part in ("--set", value)]


def run(name: str, data: Path, output: Path, options: list[str]) -> Path:
    """`final/` of a run of `train.py`."""
    arguments = [str(RECIPES / f"{name}.yaml"), "--data", str(data), "--output", str(output)]
    assert train.main(arguments + options) == 0
    return output / "final"


def test_no_recipe_is_left_out() -> None:
    assert sorted(DATA) == sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", DATA)
def test_recipe(name: str, checkpoint: Path, tmp_path: Path) -> None:
    DATA[name](tmp_path / "data")
    final = run(name, tmp_path / "data", tmp_path / "run", settings(name, checkpoint))
    model = EmoSynthNetForImageClassification.from_pretrained(final)
    names = LABELS.get(name, EXPRESSIONS)
    assert model.config.id2label == dict(enumerate(names))
    (results,) = (final / "results").glob("*-validation.json")
    assert json.loads(results.read_text())["label_names"] == list(names)
    processor = EmoSynthNetImageProcessor.from_pretrained(final)
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    if recipe.two_scale is not None:
        # One epoch is before the switch.
        assert processor.rescale_factor == pytest.approx(1 / 255)
        assert recipe.two_scale.rescale_factor == 1 / 512
        assert recipe.two_scale.switch_epoch == recipe.training["num_train_epochs"] / 2
    side, channels = model.config.image_size, model.config.num_channels
    large = picture(1, 28, 28) if name == "mnist" else picture(1, 60, 70, 3)
    pixel_values = processor(large, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, channels, side, side)
    assert channels == (3 if name in ("svhn", "cifar10") else 1)


def test_mnist_is_padded_not_stretched(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "mnist.yaml")
    processor = train.image_processor(recipe, train.model_config(recipe, DIGITS))
    digit = picture(5, 28, 28)
    values = processor(digit, return_tensors="pt")["pixel_values"][0, 0]
    want = np.zeros((32, 32))
    want[2:30, 2:30] = np.asarray(digit) / 255
    np.testing.assert_allclose(values.numpy(), want, atol=1e-6)


def test_rafdbs_numbers(tmp_path: Path) -> None:
    write_rafdb(tmp_path)
    splits = load_splits(tmp_path, **load_recipe(RECIPES / "rafdb.yaml").data.reading())
    # As its own list of labels has them
    want = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 21,
        "validation": 7,
        "test": 7,
    }
    for split in splits.values():
        for label, origin in zip(split["label"], split["origin"], strict=True):
            number = int(Path(origin.split(",")[0]).parent.name)
            assert EXPRESSIONS[label] == want[number - 1]


@pytest.mark.parametrize("name", ["ckplus", "ckplus-last-frames"])
def test_folds_share_no_subject(name: str, tmp_path: Path) -> None:
    DATA[name](tmp_path)
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    tested: list[str] = []
    for fold in range(10):
        splits = load_splits(tmp_path, **replace(recipe.data, fold=fold).reading())
        assert list(splits) == ["train", "validation", "test"]
        people = [
            {Path(origin).name[:4] for origin in split["origin"]} for split in splits.values()
        ]
        assert sum(map(len, people)) == len(set().union(*people)) == len(SUBJECTS)
        tested += splits["test"]["origin"]
        if name == "ckplus":  # contempt is merged into neutral
            classes = {
                EXPRESSIONS[label]: Path(origin.split(",")[0]).parent.name
                for label, origin in zip(
                    splits["train"]["label"], splits["train"]["origin"], strict=True
                )
                if "/neutral/" not in origin
            }
            assert classes["neutral"] == "contempt"
            assert classes["angry"] == "anger"
    assert len(tested) == len(set(tested)) == len(list(tmp_path.rglob("*.png")))


@pytest.mark.parametrize("name", ["ckplus", "ckplus-last-frames"])
def test_start_from_starts_from_those_weights(name: str, checkpoint: Path, tmp_path: Path) -> None:
    """Without a learning rate nothing but the statistics of batch normalisation changes."""
    DATA[name](tmp_path / "data")
    options = settings(name, checkpoint, "training.learning_rate=0.0")
    final = run(name, tmp_path / "data", tmp_path / "run", options)
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, final))
    same = {
        key: torch.equal(after[key], value)
        for key, value in before.items()
        if "running_" not in key and "num_batches" not in key
    }
    changed = {key for key, equal in same.items() if not equal}
    # As many labels, but others: contempt and no neutral
    assert changed == (set() if name == "ckplus" else {"classifier.weight"})
    assert any(
        not torch.equal(after[key], value) for key, value in before.items() if "running_" in key
    )
    processor = EmoSynthNetImageProcessor.from_pretrained(final)
    assert (processor.image_mean, processor.image_std) == (0.4, 0.3)


def test_what_start_from_cannot_start(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ckplus(tmp_path / "data")
    recipe = str(RECIPES / "ckplus.yaml")
    for options, message in (
        (["--preset", "small"], "model.preset cannot be set with start_from"),
        (["--set", "model.image_size=48"], "size mismatch"),
        (["--set", f"start_from={tmp_path / 'none'}"], "checkpoint must be a folder or a readable"),
    ):
        arguments = [recipe, "--data", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
        assert train.main(arguments + settings("ckplus", checkpoint) + options) == 1
        assert message in capsys.readouterr().err


def test_cross_validation(checkpoint: Path, tmp_path: Path) -> None:
    write_ckplus(tmp_path / "data")
    arguments = [str(RECIPES / "ckplus.yaml"), "--data", str(tmp_path / "data")]
    arguments += ["--output", str(tmp_path / "run"), *settings("ckplus", checkpoint)]
    assert train.main(arguments, run=folds.cross_validate) == 0
    summary = json.loads((tmp_path / "run" / "folds.json").read_text())
    results = [
        json.loads((tmp_path / f"run/fold-{fold}/final/results/data-test.json").read_text())
        for fold in range(10)
    ]
    accuracies = [result["views"]["single_crop"]["accuracy"] for result in results]
    counts = [result["num_samples"] for result in results]
    assert [row["accuracy"] for row in summary["folds"]] == accuracies
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-6)
    spread = summary["standard_deviation"]["accuracy"]
    assert spread == pytest.approx(np.std(accuracies, ddof=1), abs=1e-6)
    # Every picture is tested once.
    pooled = summary["pooled"]
    assert pooled["num_samples"] == sum(counts) == len(list((tmp_path / "data").rglob("*.png")))
    correct = np.dot(accuracies, counts) / sum(counts)
    assert pooled["accuracy"] == pytest.approx(correct, abs=1e-6)
    assert np.sum(pooled["confusion_matrix"]) == sum(counts)
    # The command that a fold's file names reads that fold again.
    command = shlex.split(results[3]["command"])
    assert command[:3] == ["python", "-m", "emosynthnet_hf.evaluation"]
    assert evaluation.main([*command[3:], "--output", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    for key in ("data_sha256", "model_sha256", "views"):
        assert again[key] == results[3][key]


def test_ckplus_frames_by_class(tmp_path: Path) -> None:
    """As CK+'s notes have it: 3 is disgust, 7 surprise; many sequences have no label."""
    images, emotions, output = (tmp_path / name for name in ("images", "Emotion", "out"))
    for subject, sequence, number in ((5, 1, "3"), (5, 2, None), (11, 4, "7")):
        place = Path(f"S{subject:03}", f"{sequence:03}")
        (images / place).mkdir(parents=True)
        (emotions / place).mkdir(parents=True)
        for frame in range(1, 5):
            name = f"S{subject:03}_{sequence:03}_{frame:08}"
            (images / place / f"{name}.png").write_bytes(name.encode())
        if number:
            (emotions / place / f"{name}_emotion.txt").write_text(f"   {number}.0000000e+00\n")
    counts = ckplus_frames.lay_out(images, emotions, output)
    assert counts == {"neutral": 2, "disgust": 2, "surprise": 2}
    found = {
        str(path.relative_to(output)): path.read_bytes().decode() for path in output.rglob("*.png")
    }
    assert sorted(found) == [
        "disgust/S005_001_00000003.png",
        "disgust/S005_001_00000004.png",
        "neutral/S005_001_00000001.png",
        "neutral/S011_004_00000001.png",
        "surprise/S011_004_00000003.png",
        "surprise/S011_004_00000004.png",
    ]
    assert all(Path(path).stem == written for path, written in found.items())
    with pytest.raises(FileExistsError):
        ckplus_frames.lay_out(images, emotions, output)
    with pytest.raises(ValueError, match=r"must hold files \*_emotion.txt, got none"):
        ckplus_frames.lay_out(emotions, images, tmp_path / "none")
    (label,) = (emotions / "S011").rglob("*.txt")
    label.write_text("8.0")
    with pytest.raises(ValueError, match="a label must be in 1 to 7, got 8"):
        ckplus_frames.lay_out(images, emotions, tmp_path / "none")
    label.write_text("7.0")
    for frame in list((images / "S011").rglob("*.png"))[2:]:
        frame.unlink()
    with pytest.raises(ValueError, match="at least 3 frames needed, got 2"):
        ckplus_frames.lay_out(images, emotions, tmp_path / "none")
    assert not (tmp_path / "none").exists()
