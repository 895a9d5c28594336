"""A checkpoint with all its records, made in seconds: for what pushes, loads and verifies one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from emosynthnet_hf import (
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    EmoSynthNetImageProcessor,
)
from emosynthnet_hf.data import EXPRESSIONS
from emosynthnet_hf.evaluation import EvaluationResult, evaluate_checkpoint
from model_card import build

SIDE = 32
PER_CLASS = 3


def make_data(folder: Path) -> Path:
    """An image folder of random pictures: three a class in train, validation and test."""
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for name in EXPRESSIONS:
            (folder / split / name).mkdir(parents=True)
            for number in range(PER_CLASS):
                pixels = generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def make_weights(folder: Path, *, seed: int = 0) -> Path:
    """Configuration, random weights in bfloat16 and processor, as training stores them."""
    torch.manual_seed(seed)
    config = EmoSynthNetConfig(
        image_size=SIDE,
        analysis_widths=[[4] * 4, [4] * 4, [4] * 4, [4] * 3],
        synthesis_widths=[4, 4],
        side_widths=[[4, 4, 4], [4], [4, 4, 4]],
        id2label=dict(enumerate(EXPRESSIONS)),
        label2id={name: label for label, name in enumerate(EXPRESSIONS)},
        temperature=1.7,
    )
    model = EmoSynthNetForImageClassification(config)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.2 * torch.rand_like(buffer))
        model.classifier.weight.mul_(50)  # clear differences between classes
    model.to(torch.bfloat16).save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    EmoSynthNetImageProcessor.from_model_config(config).save_pretrained(folder)
    return folder


def write_training(folder: Path, validation_sha256: str, **recipe: Any) -> None:
    """What a training writes about itself beside the weights."""
    (folder / "training").mkdir()
    data = {"train": {"images": 21}, "validation": {"images": 21, "sha256": validation_sha256}}
    for name, values in (
        ("training_log", [{"epoch": 2.0, "run_seconds": 90.0}]),
        ("environment", {"cores": 2, "bfloat16": True, "data": data}),
    ):
        path = folder / "training" / f"{name}.json"
        path.write_text(json.dumps(values), encoding="utf-8")
    recipe = {
        "model": {"loss": "sce", "margin": "mam"},
        "class_weights": "none",
        "two_scale": None,
    } | recipe
    (folder / "training" / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def make_checkpoint(folder: Path, data: Path) -> Path:
    """Weights with results on two splits of `data`, which must be called fer2013, and the card."""
    make_weights(folder)
    for split in ("validation", "test"):
        evaluate_checkpoint(folder, data, split, flip=True, progress=False)
    validation = EvaluationResult.load(folder / "results" / f"{data.name}-validation.json")
    write_training(folder, validation.data_sha256)
    if build.main([str(folder)]):
        raise RuntimeError("the card could not be written")
    return folder


__all__ = ["make_checkpoint", "make_data", "make_weights", "write_training"]
