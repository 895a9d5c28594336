"""Plots and tables: their numbers by hand, by slow loops and against scikit-learn."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from emosynthnet_hf import EmoSynthNetConfig, EmoSynthNetForImageClassification
from emosynthnet_hf.analysis import confusion, curves, table, tsne
from emosynthnet_hf.analysis.style import COLOURS, file_name
from emosynthnet_hf.evaluation import EvaluationResult
from emosynthnet_hf.image_processing_emosynthnet import EmoSynthNetImageProcessor
from emosynthnet_hf.scores import log_softmax, score

NAMES = ["angry", "happy", "sad"]
SIDE = 32


def made_up_result(name: str = "tiny", views: tuple[str, ...] = ("single_crop",)):  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    logits = generator.normal(size=(60, 3))
    logits[np.arange(60), labels] += 1
    result = EvaluationResult(
        name, "0" * 64, 1.0, "faces", "test", "0" * 64, 60, tuple(NAMES),
        {view: score(log_softmax(logits), labels, NAMES) for view in views},
        "float32", "cpu", 256, 1, 1.0, 60.0, {}, "command", "date",
    )  # fmt: skip
    return result, labels, logits.argmax(axis=1)


def assert_picture(path: Path) -> None:
    with Image.open(path) as picture:
        low, high = picture.convert("L").getextrema()
        assert min(picture.size) > 300 and low < 80 and high == 255


def test_confusion_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, labels, predictions = made_up_result()
    result.save(tmp_path / "results.json")
    command = [str(tmp_path / "results.json"), "--output", str(tmp_path / "gallery")]
    assert confusion.main(command) == 0
    values = json.loads((tmp_path / "gallery" / "confusion-tiny-faces-test.json").read_text())
    assert values["counts"] == confusion_matrix(labels, predictions).tolist()
    np.testing.assert_allclose(
        values["shares_of_true_class"],
        confusion_matrix(labels, predictions, normalize="true"),
        atol=1e-6,
    )
    assert values["label_names"] == NAMES and values["view"] == "single_crop"
    assert_picture(tmp_path / "gallery" / "confusion-tiny-faces-test.png")

    assert confusion.main([*command, "--view", "flip_averaging"]) == 1
    assert "has no view flip_averaging" in capsys.readouterr().err


def test_a_class_without_samples_has_no_shares() -> None:
    shares = confusion.row_shares(np.array([[3, 1], [0, 0]]))
    assert shares.tolist() == [[0.75, 0.25], [0, 0]]


def test_table_command(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        files.append(tmp_path / f"{name}.json")
        made_up_result(name, ("single_crop", "flip_averaging"))[0].save(files[-1])
    assert table.main([*map(str, files), "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert [(row["checkpoint"], row["view"]) for row in rows] == [
        ("one", "single_crop"), ("one", "flip_averaging"),
        ("two", "single_crop"), ("two", "flip_averaging"),
    ]  # fmt: skip
    result, labels, predictions = made_up_result()
    assert rows[0]["accuracy"] + rows[0]["error"] == pytest.approx(1, abs=1e-9)
    assert rows[0]["accuracy"] == pytest.approx((labels == predictions).mean(), abs=1e-6)
    lines = (tmp_path / "scores.md").read_text().splitlines()
    scores = result.views["single_crop"]
    assert lines[4].startswith(
        f"| one | faces | test | single crop | {scores.accuracy:.2%} | {1 - scores.accuracy:.2%} | "
    )
    assert lines[4].endswith(f"| {scores.macro_recall:.2%} | {scores.macro_f1:.2%} |")


LOG = [
    {"epoch": 1.0, "train_loss": 1.5, "validation": {"loss": 1.2, "accuracy": 0.4}},
    {"epoch": 2.0, "train_loss": 1.0, "validation": {"loss": 1.0, "accuracy": 0.6}},
    {"epoch": 3.0, "train_loss": 0.8, "validation": {"loss": 1.1, "accuracy": 0.5}},
]


def test_curves_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "net" / "training" / "training_log.json"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(LOG))
    assert curves.main([str(log), "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "curves-net.json").read_text()) == {
        "epoch": [1, 2, 3],
        "train_loss": [1.5, 1.0, 0.8],
        "validation_loss": [1.2, 1.0, 1.1],
        "validation_accuracy": [0.4, 0.6, 0.5],
    }
    assert_picture(tmp_path / "curves-net.png")
    log.write_text(json.dumps([*LOG, {"epoch": 4.0}]))
    assert curves.main([str(log), "--output", str(tmp_path)]) == 1
    assert "every entry of the log must hold 'train_loss'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least one epoch, got none"):
        curves.curves([])


def test_separation_by_hand() -> None:
    # Two classes on a line: 0, 2 and 10, 14. Means 1 and 12, mean of all 6.5.
    embeddings, labels = np.array([[0.0], [2.0], [10.0], [14.0]]), np.array([0, 0, 1, 1])
    assert tsne.scatter_ratio(embeddings, labels) == pytest.approx(4 * 5.5**2 / (2 * 1 + 2 * 4))
    # a = 2, 2, 4, 4; b = 12, 10, 9, 13.
    silhouettes = [(12 - 2) / 12, (10 - 2) / 10, (9 - 4) / 9, (13 - 4) / 13]
    found = tsne.separation(embeddings, labels)
    assert found.silhouette == pytest.approx(np.mean(silhouettes), abs=1e-6)
    assert found.nearest_neighbour_accuracy == 1.0
    # The nearest of 0, 2, 10, 14 are 2, 0, 14, 10.
    assert tsne.separation(embeddings, np.array([0, 1, 1, 1])).nearest_neighbour_accuracy == 0.5


def test_nearest_neighbour_accuracy_equals_leaving_one_out() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 80)
    embeddings = generator.normal(size=(80, 4)) + labels[:, None]
    expected = cross_val_score(KNeighborsClassifier(1), embeddings, labels, cv=LeaveOneOut()).mean()
    found = tsne.separation(embeddings, labels).nearest_neighbour_accuracy
    assert found == pytest.approx(expected, abs=1e-6)


def test_scatter_ratio_equals_the_matrices() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 4, 90)
    embeddings = generator.normal(size=(90, 5)) + labels[:, None]
    within = sum(
        np.cov(embeddings[labels == label].T, bias=True) * (labels == label).sum()
        for label in range(4)
    )
    # Total scatter is between plus within.
    total = np.cov(embeddings.T, bias=True) * len(labels)
    expected = np.trace(total - within) / np.trace(within)
    assert tsne.scatter_ratio(embeddings, labels) == pytest.approx(expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints `one` and `two`, and data `faces`."""
    folder = tmp_path_factory.mktemp("tsne")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = EmoSynthNetConfig(
            image_size=SIDE,
            analysis_widths=[[4] * 4, [4] * 4, [4] * 4, [4] * 3],
            synthesis_widths=[4, 4],
            side_widths=[[4, 4, 4], [4], [4, 4, 4]],
            id2label=dict(enumerate(NAMES)),
            label2id={name: label for label, name in enumerate(NAMES)},
        )
        EmoSynthNetForImageClassification(config).save_pretrained(folder / name)
        EmoSynthNetImageProcessor.from_model_config(config).save_pretrained(folder / name)
    generator = np.random.default_rng(0)
    for name in NAMES:
        (folder / "faces" / "validation" / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "faces" / "validation" / name / f"{number}.png")
    return folder


def test_labels_of_close_classes_are_parted() -> None:
    places = np.array([[0.0, 0.0], [0.5, 0.4], [5.0, 0.0], [0.2, 3.0]])
    moved = tsne.parted(places, width=1.0, height=1.0)
    # The first two share 0.6 of a height: each goes 0.3 its way. The others overlap with none.
    np.testing.assert_allclose(moved, [[0.0, -0.3], [0.5, 0.7], [5.0, 0.0], [0.2, 3.0]])
    stacked = tsne.parted(np.zeros((4, 2)), width=1.0, height=1.0)
    assert np.diff(np.sort(stacked[:, 1])).min() > 0.99


def test_tsne_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = str(folder / "one"), str(folder / "two")
    options = ["--data", str(folder / "faces"), "--adapter", "own", "--output", str(tmp_path)]
    assert tsne.main([one, two, *options]) == 0
    values = json.loads((tmp_path / "tsne-one-two-faces-validation.json").read_text())
    assert list(values["checkpoints"]) == ["one", "two"]
    assert values["pictures"] == dict.fromkeys(NAMES, 6)
    assert_picture(tmp_path / "tsne-one-two-faces-validation.png")

    # The numbers are those of the model's own embeddings, read another way.
    files = sorted((folder / "faces").glob("validation/*/*.png"))
    labels = np.array([NAMES.index(file.parent.name) for file in files])
    processor = EmoSynthNetImageProcessor.from_pretrained(folder / "two")
    model = EmoSynthNetForImageClassification.from_pretrained(folder / "two")
    with torch.inference_mode():
        inputs = processor([Image.open(file) for file in files], return_tensors="pt")
        embeddings = model(**inputs).pooler_output.double().numpy()
    found = values["checkpoints"]["two"]
    assert found["scatter_ratio"] == pytest.approx(tsne.scatter_ratio(embeddings, labels), rel=1e-4)
    assert found["scatter_ratio"] != values["checkpoints"]["one"]["scatter_ratio"]

    # The same command draws the same picture.
    picture = (tmp_path / "tsne-one-two-faces-validation.png").read_bytes()
    assert tsne.main([one, two, *options]) == 0
    assert (tmp_path / "tsne-one-two-faces-validation.png").read_bytes() == picture

    assert tsne.main([one, one, *options]) == 1
    assert "two checkpoints must have two names, got one twice" in capsys.readouterr().err


def test_colours_are_enough_and_names_are_files() -> None:
    assert len(set(COLOURS)) == len(COLOURS) >= 7
    assert file_name("tsne", "someone/net", "fer2013") == "tsne-someone--net-fer2013"


def test_matplotlib_and_scikit_learn_are_only_imported_to_draw() -> None:
    # Some versions of transformers, which the package itself imports, bring scikit-learn.
    code = (
        "import sys, emosynthnet_hf\n"
        "before = set(sys.modules)\n"
        "import emosynthnet_hf.robustness\n"
        "from emosynthnet_hf.analysis import confusion, curves, table, tsne\n"
        "sys.exit(' '.join({'matplotlib', 'sklearn'} & (set(sys.modules) - before)))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stderr.strip() == ""
