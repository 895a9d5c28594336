"""The evaluation of a tiny made-up checkpoint on a made-up image folder, from end to end."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import evaluate
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from emosynthnet_hf import EmoSynthNetConfig, EmoSynthNetForImageClassification
from emosynthnet_hf.evaluation import (
    EvaluationResult,
    calibrate,
    checkpoint_folder,
    compute_metrics,
    evaluate_checkpoint,
    fingerprint,
    format_result,
    load_images,
    main,
    predict_logits,
)
from emosynthnet_hf.image_processing_emosynthnet import EmoSynthNetImageProcessor
from emosynthnet_hf.metrics import metric_path
from emosynthnet_hf.scores import fit_temperature, log_softmax, score

NAMES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
SIDE = 32
PER_CLASS = 4
TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder with splits `validation` and `test`, PER_CLASS pictures a class in each."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    generator = np.random.default_rng(0)
    for split in ("validation", "test"):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True)
            for number in range(PER_CLASS):
                pixels = generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def tiny_model() -> EmoSynthNetForImageClassification:
    torch.manual_seed(0)
    config = EmoSynthNetConfig(
        image_size=SIDE,
        analysis_widths=[[4] * 4, [4] * 4, [4] * 4, [4] * 3],
        synthesis_widths=[4, 4],
        side_widths=[[4, 4, 4], [4], [4, 4, 4]],
        id2label=dict(enumerate(NAMES)),
        label2id={name: label for label, name in enumerate(NAMES)},
        temperature=TEMPERATURE,
    )
    model = EmoSynthNetForImageClassification(config)
    model.eval()
    # Running statistics of its own, so that evaluation mode matters, and clear differences.
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand_like(buffer))
        model.classifier.weight.mul_(5)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tiny_model().save_pretrained(folder)
    processor = EmoSynthNetImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5], image_std=[0.25]
    )
    processor.save_pretrained(folder)
    return folder


def files_and_labels(data: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Every picture of a split and its label, read without the package."""
    files = sorted(data.glob(f"{split}/*/*.png"))
    return [str(file) for file in files], np.array(
        [NAMES.index(file.parent.name) for file in files]
    )


def pipeline_probabilities(checkpoint: Path, files: list[str]) -> np.ndarray:
    classifier = pipeline("image-classification", model=str(checkpoint), top_k=len(NAMES))
    answers = [{entry["label"]: entry["score"] for entry in answer} for answer in classifier(files)]
    probabilities = np.array([[answer[name] for name in NAMES] for answer in answers])
    # They are float32, whose sum misses 1 by more than scikit-learn allows.
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def by_label(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows in an order that does not depend on how the data set is read."""
    table = np.column_stack([labels, rows])
    return table[np.lexsort(table.round(3).T[::-1])]


def test_one_picture_has_one_score(checkpoint: Path, data: Path) -> None:
    files, labels = files_and_labels(data, "test")
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    images = load_images(data, "test", processor, NAMES)

    evaluation = predict_logits(model, images, processor, batch_size=5)
    with torch.inference_mode():
        inputs = processor([Image.open(file) for file in files], return_tensors="pt")
        auto = model(**inputs).logits.numpy()
    piped = pipeline_probabilities(checkpoint, files)

    assert np.ptp(auto, axis=0).min() > 0.1
    np.testing.assert_allclose(
        by_label(evaluation, images.labels.numpy()), by_label(auto, labels), atol=1e-4
    )
    np.testing.assert_allclose(
        by_label(np.exp(log_softmax(evaluation)), images.labels.numpy()),
        by_label(piped, labels),
        atol=1e-5,
    )


def test_logits_are_divided_by_the_temperature(checkpoint: Path, data: Path) -> None:
    processor = EmoSynthNetImageProcessor.from_pretrained(checkpoint)
    images = load_images(data, "test", processor, NAMES)
    model = tiny_model()
    divided = predict_logits(model, images, processor)
    model.config.temperature = 1.0
    np.testing.assert_allclose(
        predict_logits(model, images, processor), divided * TEMPERATURE, rtol=1e-5, atol=1e-6
    )


def test_flip_mirrors_the_picture(checkpoint: Path, data: Path) -> None:
    processor = EmoSynthNetImageProcessor.from_pretrained(checkpoint)
    images = load_images(data, "test", processor, NAMES)
    model = tiny_model()
    flipped = predict_logits(model, images, processor, flip=True)
    plain = predict_logits(model, images, processor)
    images.pixels = torch.from_numpy(images.pixels.numpy()[:, :, :, ::-1].copy())
    np.testing.assert_allclose(predict_logits(model, images, processor), flipped, atol=1e-6)
    assert np.abs(plain - flipped).max() > 0.1


def test_scores_are_those_of_the_pipeline(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = evaluate_checkpoint(
        checkpoint, data, "test", flip=True, output=tmp_path / "result.json", progress=False
    )
    files, labels = files_and_labels(data, "test")
    probabilities = pipeline_probabilities(checkpoint, files)
    mirrored = []
    for number, file in enumerate(files):
        mirrored.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.asarray(Image.open(file))[:, ::-1]).save(mirrored[-1])
    averaged = (probabilities + pipeline_probabilities(checkpoint, mirrored)) / 2

    assert list(result.views) == ["single_crop", "flip_averaging"]
    for view, expected in zip(result.views.values(), (probabilities, averaged), strict=True):
        predicted = expected.argmax(axis=1)
        assert view.accuracy == pytest.approx((predicted == labels).mean(), abs=1e-6)
        assert view.loss == pytest.approx(sklearn.metrics.log_loss(labels, expected), abs=1e-4)
        np.testing.assert_array_equal(
            view.confusion_matrix,
            sklearn.metrics.confusion_matrix(labels, predicted, labels=range(7)),
        )
        assert list(view.per_class) == NAMES
    assert result.views["single_crop"] != result.views["flip_averaging"]
    assert result.num_samples == 7 * PER_CLASS
    assert result.temperature == TEMPERATURE
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert result.model_sha256 == hashlib.sha256(weights).hexdigest()
    assert (result.checkpoint, result.dataset, result.split) == ("tiny", "faces", "test")
    # Seconds are rounded to a thousandth.
    assert result.images_per_second * result.seconds == pytest.approx(
        28, abs=0.1 + 0.0005 * result.images_per_second
    )


def test_the_result_survives_json(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    result = evaluate_checkpoint(checkpoint, data, output=path, progress=False)
    assert EvaluationResult.load(path) == result
    values = json.loads(path.read_text())
    del values["date"]
    with pytest.raises(ValueError, match=r"missing fields \['date'\]"):
        EvaluationResult.from_dict(values)


def test_neither_repetition_nor_batch_size_changes_the_scores(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    results = [
        evaluate_checkpoint(
            checkpoint, data, batch_size=size, output=tmp_path / "result.json", progress=False
        )
        for size in (256, 256, 3)
    ]
    assert results[0].views == results[1].views
    assert results[2].views["single_crop"].loss == pytest.approx(
        results[0].views["single_crop"].loss, abs=2e-6
    )
    assert len({result.data_sha256 for result in results}) == 1


def test_weights_in_bfloat16_are_computed_in_float32(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bfloat16"
    processor = EmoSynthNetImageProcessor.from_pretrained(checkpoint)
    processor.save_pretrained(folder)
    tiny_model().bfloat16().save_pretrained(folder)
    dtypes = {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}
    assert torch.bfloat16 in dtypes and torch.float32 not in dtypes

    images = load_images(data, "test", processor, NAMES)
    rounded = tiny_model().bfloat16().float()
    expected = score(
        log_softmax(predict_logits(rounded, images, processor)), images.labels.numpy(), NAMES
    )
    result = evaluate_checkpoint(folder, data, progress=False)
    assert result.views["single_crop"] == expected

    # A config that says float32 makes every other way of loading compute so too.
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"dtype": "float32"}))
    files, labels = files_and_labels(data, "test")
    piped = pipeline_probabilities(folder, files)
    assert sklearn.metrics.log_loss(labels, piped) == pytest.approx(expected.loss, abs=1e-5)

    autocast = evaluate_checkpoint(folder, data, dtype="bfloat16", progress=False)
    assert autocast.dtype == "bfloat16"
    assert autocast.views["single_crop"].loss != expected.loss
    assert autocast.views["single_crop"].loss == pytest.approx(expected.loss, rel=0.05)


def test_calibrating_twice_changes_nothing(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    processor = EmoSynthNetImageProcessor.from_pretrained(checkpoint)
    images = load_images(data, "validation", processor, NAMES)
    model = tiny_model()
    logits = predict_logits(model, images, processor)
    # Right on three of four pictures, so that the best temperature is neither 0 nor infinite.
    labels = (logits.argmax(axis=1) + (np.arange(len(logits)) % 4 == 0)) % len(NAMES)
    images.labels = torch.from_numpy(labels)
    before = score(log_softmax(logits), labels, NAMES)

    temperature = calibrate(model, images, processor)
    assert model.config.temperature == temperature != TEMPERATURE
    assert calibrate(model, images, processor) == temperature
    # Nothing is left to gain on the calibrated logits.
    logits = predict_logits(model, images, processor)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=2e-4)
    assert score(log_softmax(logits), labels, NAMES).loss < before.loss

    model.save_pretrained(tmp_path)
    assert EmoSynthNetConfig.from_pretrained(tmp_path).temperature == temperature


def test_fingerprint_follows_pixels_labels_and_order() -> None:
    pixels = torch.arange(2 * 4 * 4, dtype=torch.uint8).reshape(2, 1, 4, 4)
    labels = torch.tensor([3, 1])

    def of(pixels: torch.Tensor, labels: torch.Tensor) -> str:
        return fingerprint(SimpleNamespace(pixels=pixels, labels=labels))  # type: ignore[arg-type]

    by_hand = b"(2, 1, 4, 4)" + bytes(range(32)) + b"\x03" + b"\0" * 7 + b"\x01" + b"\0" * 7
    assert of(pixels, labels) == hashlib.sha256(by_hand).hexdigest()
    changed = pixels.clone()
    changed[0, 0, 0, 0] = 1
    others = [
        of(changed, labels),
        of(pixels, labels.flip(0)),
        of(pixels.flip(0), labels),
        of(pixels.flip(0), labels.flip(0)),
        of(pixels.reshape(2, 1, 2, 8), labels),
    ]
    assert len({of(pixels, labels), *others}) == 6


@pytest.mark.parametrize("as_tuple", [False, True])
def test_compute_metrics_equal_scikit_learn(as_tuple: bool) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(100, 7)).astype(np.float32)
    labels = generator.integers(0, 7, 100)
    predictions = (logits, np.zeros((100, 64))) if as_tuple else logits
    metrics = compute_metrics(SimpleNamespace(predictions=predictions, label_ids=labels))
    macro = sklearn.metrics.precision_recall_fscore_support(
        labels, logits.argmax(axis=1), average="macro"
    )
    assert metrics["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert [metrics["macro_precision"], metrics["macro_recall"], metrics["macro_f1"]] == (
        pytest.approx(macro[:3], abs=1e-6)
    )
    assert metrics["balanced_accuracy"] == metrics["macro_recall"]
    assert 0 < metrics["expected_calibration_error"] < 1


def test_command_line(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emosynthnet_hf.evaluation", str(checkpoint)]
    command += ["--data", str(data), "--split", "test", "--flip"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    result = EvaluationResult.load(checkpoint / "results" / "faces-test.json")
    single = result.views["single_crop"]
    assert f"accuracy                    {single.accuracy:7.2%}" in done.stdout
    assert "flip averaging" in done.stdout and "28/28" in done.stderr
    for name, row in zip(NAMES, single.confusion_matrix, strict=True):
        (first, _) = [line for line in done.stdout.splitlines() if line.split()[:1] == [name]]
        assert [int(count) for count in first.split()[-7:]] == list(row)

    # The command that the file names gives the file's numbers.
    arguments = shlex.split(result.command)
    assert arguments[:3] == ["python", "-m", "emosynthnet_hf.evaluation"]
    again, log = tmp_path / "again.json", tmp_path / "readings.md"
    for _ in range(2):
        assert main([*arguments[3:], "--output", str(again), "--log", str(log)]) == 0
    assert EvaluationResult.load(again).views == result.views

    heading, rule, *rows = log.read_text().splitlines()
    assert heading.split(" | ")[-2:] == ["accuracy", "macro F1 |"] and rule.startswith("| ---")
    assert [row.split(" | ")[5] for row in rows] == ["single crop", "flip averaging"] * 2
    assert rows[2].endswith(f"| {single.accuracy:.2%} | {single.macro_f1:.2%} |")


def test_evaluator_runs_on_a_checkpoint(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    evaluator = evaluate.evaluator("image-classification")
    files, labels = files_and_labels(data, "test")
    examples = datasets.Dataset.from_dict({"image": files, "label": labels}).cast_column(
        "image", datasets.Image()
    )
    found: dict[str, float] = {}
    for name in ("accuracy", "balanced_accuracy", "macro_precision_recall_f1"):
        found |= evaluator.compute(
            model_or_pipeline=str(checkpoint),
            data=examples,
            metric=evaluate.load(metric_path(name)),
            label_mapping={name: label for label, name in enumerate(NAMES)},
        )
    expected = evaluate_checkpoint(
        checkpoint, data, output=tmp_path / "result.json", progress=False
    ).views["single_crop"]
    names = ("accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1")
    for name in names:
        assert found[name] == pytest.approx(getattr(expected, name), abs=1e-6), name


def test_a_checkpoint_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="folder or a readable Hub id, got 'no/such/one'"):
        checkpoint_folder("no/such/one")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"missing: preprocessor_config\.json, model\.safetensors"
    ):
        checkpoint_folder(tmp_path)
    assert main([str(tmp_path), "--data", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: checkpoint")


def test_errors_of_the_data(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split must be one of .*validation.*, got 'dev'"):
        evaluate_checkpoint(checkpoint, data, "dev", progress=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate_checkpoint(checkpoint, data, batch_size=0, progress=False)
    with pytest.raises(ValueError, match="adapter must be one of"):
        evaluate_checkpoint(checkpoint, data, adapter="unknown", progress=False)
    (tmp_path / "empty").mkdir()
    for split, count in (("train", 1), ("test", 0)):
        rows = {"image": ["a.png"] * count, "label": np.zeros(count, dtype=int)}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "empty" / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"test.* no (rows|data)"):
        evaluate_checkpoint(checkpoint, tmp_path / "empty", progress=False)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'int8'"):
        evaluate_checkpoint(checkpoint, data, dtype="int8", progress=False)
    processor = EmoSynthNetImageProcessor.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"labels are cat, dog, .*data's angry, disgust"):
        load_images(data, "test", processor, ["cat", "dog"])


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet files in Hub layout with FER+ votes; six of the 14 test pictures are in train."""
    folder = tmp_path_factory.mktemp("votes") / "fer2013"
    generator = np.random.default_rng(5)
    pixels = generator.integers(0, 256, (22, SIDE, SIDE), dtype=np.uint8)
    test = [*range(6), *range(14, 22)]
    rows = {"train": range(14), "validation": range(8, 22), "test": test}
    for split, chosen in rows.items():
        datasets.Dataset.from_dict(
            {
                "image": [Image.fromarray(pixels[row]) for row in chosen],
                "label": [number % 7 for number in range(14)],
                "votes": generator.multinomial(10, np.ones(10) / 10, 14).tolist(),
            },
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "label": datasets.ClassLabel(names=NAMES),
                    "votes": datasets.List(datasets.Value("int32")),
                }
            ),
        ).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_one_reading_gives_twins_and_votes(checkpoint: Path, voted: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result = evaluate_checkpoint(checkpoint, voted, "test", flip=True, output=path, progress=False)
    assert EvaluationResult.load(path) == result
    assert result.twins is not None and result.votes is not None

    table = datasets.Dataset.from_parquet(
        str(voted / "data" / "test-00000-of-00001.parquet"), cache_dir=str(tmp_path / "cache")
    )
    files = []
    for number, picture in enumerate(table["image"]):
        files.append(str(tmp_path / f"{number}.png"))
        picture.save(files[-1])
    probabilities = pipeline_probabilities(checkpoint, files)
    correct = probabilities.argmax(axis=1) == np.array(table["label"])
    twins = result.twins["single_crop"]
    assert twins.num_twins == 6
    assert twins.accuracy == result.views["single_crop"].accuracy
    assert twins.accuracy_of_twins == pytest.approx(correct[:6].mean(), abs=1e-6)
    assert twins.accuracy_without_twins == pytest.approx(correct[6:].mean(), abs=1e-6)

    # FER+ counts neutral, happiness, surprise, sadness, anger, disgust, fear, and three others.
    votes = np.array(table["votes"])[:, [4, 5, 6, 1, 3, 2, 0]]
    single = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
    agree = (votes.argmax(axis=1) == probabilities.argmax(axis=1))[single].mean()
    assert result.votes["single_crop"].accuracy == pytest.approx(agree, abs=1e-6)
    shares = votes / votes.sum(axis=1, keepdims=True)
    expected = scipy.stats.entropy(shares, probabilities, axis=1).mean()
    assert result.votes["single_crop"].divergence == pytest.approx(expected, abs=1e-4)
    assert result.vote_ceiling is not None
    assert result.vote_ceiling.num_majorities == single.sum()
    agree = (votes.argmax(axis=1) == np.array(table["label"]))[single].mean()
    assert result.vote_ceiling.label_agreement == pytest.approx(agree, abs=1e-6)
    assert list(result.twins) == list(result.votes) == list(result.views)

    text = format_result(result)
    assert "without the 6 pictures that are in train as well" in text
    assert f"it is the label on {result.vote_ceiling.label_agreement:.2%}" in text


def test_train_is_only_read_where_it_is_there_and_asked_for(
    checkpoint: Path, data: Path, voted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "result.json"
    result = evaluate_checkpoint(
        checkpoint, voted, "test", compare_train=False, output=path, progress=False
    )
    assert result.twins is None and result.command.endswith("--no-compare-train")
    assert "twins in train" not in caplog.text
    result = evaluate_checkpoint(checkpoint, data, "test", output=path, progress=False)
    assert result.twins is None and result.votes is None and result.vote_ceiling is None
    assert "twins in train are not counted: split must be one of" in caplog.text


def test_results_of_before_twins_and_votes_can_be_read(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    result = evaluate_checkpoint(checkpoint, data, output=tmp_path / "result.json", progress=False)
    values = result.to_dict()
    for name in ("twins", "votes", "vote_ceiling"):
        del values[name]
    assert EvaluationResult.from_dict(values) == result
