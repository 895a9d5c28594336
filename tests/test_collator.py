"""The collator: rows of a data set in, a batch for the Trainer out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import Trainer, TrainingArguments

from emosynthnet_hf import (
    EmoSynthNetCollator,
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    EmoSynthNetImageProcessor,
)

GREYS = (0, 51, 255)


@pytest.fixture
def processor() -> EmoSynthNetImageProcessor:
    return EmoSynthNetImageProcessor(size={"height": 32, "width": 32})


def rows(labels: Any) -> list[dict[str, Any]]:
    images = (Image.new("L", (40, 30), grey) for grey in GREYS)
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


def test_batch_by_hand(processor: EmoSynthNetImageProcessor) -> None:
    batch = EmoSynthNetCollator(processor)(rows([2, 0, 6]))
    assert set(batch) == {"pixel_values", "labels"}
    assert batch["pixel_values"].shape == (3, 1, 32, 32)
    assert batch["pixel_values"].dtype == torch.float32
    # (0/255 - 0.5) / 0.5, (51/255 - 0.5) / 0.5, (255/255 - 0.5) / 0.5
    for pixels, value in zip(batch["pixel_values"], (-1.0, -0.6, 1.0), strict=True):
        assert torch.allclose(pixels, torch.tensor(value))
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [2, 0, 6]


@pytest.mark.parametrize(
    "labels",
    [
        [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]],
        [np.array([0.25, 0.75]), np.array([1.0, 0.0]), np.array([0.5, 0.5])],
        [torch.tensor([0.25, 0.75]), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])],
    ],
)
def test_soft_labels(processor: EmoSynthNetImageProcessor, labels: Any) -> None:
    batch = EmoSynthNetCollator(processor)(rows(labels))
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]
    whole = EmoSynthNetCollator(processor)(rows([[0, 1], [1, 0], [0, 1]]))["labels"]
    assert whole.dtype == torch.float32
    assert whole.tolist() == [[0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    "labels",
    [np.array([1, 0, 2], np.int32), torch.tensor([1, 0, 2]), np.array([1, 0, 2], np.uint8)],
)
def test_integers_of_any_width(processor: EmoSynthNetImageProcessor, labels: Any) -> None:
    batch = EmoSynthNetCollator(processor)(rows(labels))
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [1, 0, 2]


def test_columns_by_name_and_pictures_by_path(
    processor: EmoSynthNetImageProcessor, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{grey}.png" for grey in GREYS]
    for path, row in zip(paths, rows(GREYS), strict=True):
        row["image"].save(path)
    named = [{"img": str(path), "y": 1, "rest": None} for path in paths]
    batch = EmoSynthNetCollator(processor, image_column="img", label_column="y")(named)
    expected = EmoSynthNetCollator(processor)(rows([1, 1, 1]))
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    assert torch.equal(batch["labels"], expected["labels"])


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_missing_column_is_named(processor: EmoSynthNetImageProcessor, column: str) -> None:
    given = rows([0, 1, 2])
    del given[1][column]
    with pytest.raises(KeyError, match=f"column '{column}', got .*remove_unused_columns=False"):
        EmoSynthNetCollator(processor)(given)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["happy", "sad", "fear"], "integer classes or K probabilities.*such as 'happy'"),
        ([0.5, 1.0, 2.0], r"float64 of shape \(3,\), such as 0.5"),
        ([None, 1, 2], "such as None"),
    ],
)
def test_other_labels_are_refused(
    processor: EmoSynthNetImageProcessor, labels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EmoSynthNetCollator(processor)(rows(labels))


def test_trainer_learns_through_it(processor: EmoSynthNetImageProcessor, tmp_path: Path) -> None:
    # Black against white: learnt in a few steps, if pictures and labels stay together.
    images = [Image.new("RGB", (36, 36), (255 * (row % 2),) * 3) for row in range(16)]
    features = Features({"image": ImageFeature(), "label": Value("int64"), "file": Value("string")})
    data = {"image": images, "label": [row % 2 for row in range(16)], "file": ["a"] * 16}
    torch.manual_seed(0)
    config = EmoSynthNetConfig(
        image_size=32,
        num_labels=2,
        analysis_widths=[[4] * 4, [4] * 4, [4] * 4, [4] * 3],
        synthesis_widths=[4, 4],
        side_widths=[[4] * 3, [4], [4] * 3],
        margin="none",
        loss="ce",
    )
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        seed=0,
    )
    trainer = Trainer(
        EmoSynthNetForImageClassification(config),
        arguments,
        data_collator=EmoSynthNetCollator(processor),
        train_dataset=Dataset.from_dict(data, features=features),
        eval_dataset=Dataset.from_dict(data, features=features),
        compute_metrics=lambda output: {
            "accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())
        },
    )
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1.0
