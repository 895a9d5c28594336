"""The robustness command, from end to end, on a made-up checkpoint and made-up pictures."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from emosynthnet_hf import EmoSynthNetConfig, EmoSynthNetForImageClassification
from emosynthnet_hf.corruptions import CORRUPTIONS
from emosynthnet_hf.image_processing_emosynthnet import EmoSynthNetImageProcessor
from emosynthnet_hf.robustness import CorruptionScores, RobustnessResult, main, table

NAMES = ["cat", "dog"]
SIDE = 48


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pets"
    generator = np.random.default_rng(0)
    for name in NAMES:
        (folder / "validation" / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "validation" / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    torch.manual_seed(0)
    config = EmoSynthNetConfig(
        image_size=SIDE,
        analysis_widths=[[4] * 4, [4] * 4, [4] * 4, [4] * 3],
        synthesis_widths=[4, 4],
        side_widths=[[4, 4, 4], [4], [4, 4, 4]],
        id2label=dict(enumerate(NAMES)),
        label2id={name: label for label, name in enumerate(NAMES)},
    )
    EmoSynthNetForImageClassification(config).save_pretrained(folder)
    EmoSynthNetImageProcessor.from_model_config(config).save_pretrained(folder)
    return folder


def test_command_line(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert main([str(checkpoint), "--data", str(data)]) == 0
    result = RobustnessResult.load(checkpoint / "robustness" / "validation.json")
    assert list(result.corruptions) == list(CORRUPTIONS)
    assert (result.checkpoint, result.dataset, result.split) == ("tiny", "pets", "validation")
    assert result.num_samples == 16
    assert (checkpoint / "robustness" / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert (checkpoint / "robustness" / "validation.md").read_text() == table(result) + "\n"

    # The command that the file names gives the file's numbers.
    assert main([*shlex.split(result.command)[3:], "--output", str(tmp_path)]) == 0
    again = RobustnessResult.load(tmp_path / "validation.json")
    assert (again.accuracy, again.corruptions) == (result.accuracy, result.corruptions)
    values = json.loads((tmp_path / "validation.json").read_text())
    (tmp_path / "validation.json").write_text(json.dumps(values | {"other": 1}))
    with pytest.raises(ValueError, match="unknown fields"):
        RobustnessResult.load(tmp_path / "validation.json")


def test_accuracies_are_those_of_the_pipeline(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert main([str(checkpoint), "--data", str(data), "--output", str(tmp_path)]) == 0
    result = RobustnessResult.load(tmp_path / "validation.json")
    files = sorted(data.glob("validation/*/*.png"))
    classify = pipeline("image-classification", model=str(checkpoint), top_k=1)

    def accuracy(change) -> float:  # type: ignore[no-untyped-def]
        answers = classify([change(Image.open(file)) for file in files])
        pairs = zip(answers, files, strict=True)
        return float(np.mean([answer[0]["label"] == file.parent.name for answer, file in pairs]))

    def washed_out(picture: Image.Image) -> Image.Image:
        values = np.asarray(picture).astype(float)
        return Image.fromarray(
            np.round(values.mean() + 0.3 * (values - values.mean())).astype(np.uint8)
        )

    assert result.accuracy == pytest.approx(accuracy(lambda picture: picture), abs=1e-6)
    assert result.corruptions["low contrast"].accuracies[2] == pytest.approx(
        accuracy(washed_out), abs=1e-6
    )


def test_the_table_puts_what_costs_most_first() -> None:
    strengths = (1.0, 2.0, 3.0, 4.0, 5.0)
    corruptions = {
        "mild": CorruptionScores("level", strengths, (0.9, 0.9, 0.8, 0.8, 0.6)),
        "harsh": CorruptionScores("level", strengths, (0.5, 0.4, 0.3, 0.2, 0.1)),
    }
    result = RobustnessResult(
        "net", "0", "faces", "validation", "0", 10, "float32", "cpu", 0.9, corruptions, 0, {}, "c",
        "d",
    )  # fmt: skip
    rows = [line for line in table(result).splitlines() if line.startswith("| ")][2:]
    assert rows[0] == (
        "| harsh | level | 50.0% (1) | 40.0% (2) | 30.0% (3) | 20.0% (4) | 10.0% (5) | 30.0% |"
    )
    assert rows[1].startswith("| mild |") and rows[1].endswith("| 80.0% |")


def test_errors_are_said_in_a_line(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--data", str(data)]) == 1
    assert capsys.readouterr().err.startswith("error: checkpoint")
    assert main([str(checkpoint), "--data", str(data), "--split", "dev"]) == 1
    assert "split must be one of" in capsys.readouterr().err
