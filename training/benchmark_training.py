"""The Trainer's loop against the bare loop: python training/benchmark_training.py

Measures, in one process and by turns, legs of the bare forward-backward-step loop on batches that
are ready, and legs of `ImageTrainer` with its data loading, augmentation, normalisation, logging
and callbacks, with the same network, batch, optimizer, precision and memory format. Evaluation and
saving are left out. The medians go to docs/benchmarks/training.json.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from emosynthnet_hf import EmoSynthNetForImageClassification, EmoSynthNetImageProcessor
from emosynthnet_hf.data import EXPRESSIONS, PackedImages
from recipe import Recipe, load_recipe
from train import model_config, training_arguments
from trainer import ImageTrainer, has_bfloat16, keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent


class MadeUpImages(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Noise in the form of `PackedImages`, which costs the same to load."""

    __getitem__ = PackedImages.__getitem__
    __getitems__ = PackedImages.__getitems__
    __len__ = PackedImages.__len__

    def __init__(self, count: int, channels: int, side: int) -> None:
        shape = (count, channels, side, side)
        self.pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        self.targets = torch.randint(0, len(EXPRESSIONS), (count,))


class LegTimer(TrainerCallback):
    """Seconds from the end of the first `skip` steps to the end of training."""

    def __init__(self, skip: int) -> None:
        self.skip = skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if state.global_step == self.skip:
            self.start = now
        self.seconds = now - getattr(self, "start", now)


def build_trainer(recipe: Recipe, steps: int, skip: int, folder: str) -> ImageTrainer:
    """A trainer of the recipe on made-up pictures, without evaluation and saving."""
    settings = {
        "max_steps": steps + skip,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    recipe = replace(recipe, training=recipe.training | settings)
    config = model_config(recipe, EXPRESSIONS)
    arguments = training_arguments(recipe, Path(folder))
    batch = arguments.per_device_train_batch_size
    return ImageTrainer(
        model=EmoSynthNetForImageClassification(config),
        processor=EmoSynthNetImageProcessor.from_model_config(config, **recipe.processor),
        augmentation=recipe.augmentation,
        mixup_alpha=recipe.mixup_alpha,
        args=arguments,
        train_dataset=MadeUpImages(batch * (steps + skip), config.num_channels, config.image_size),
        data_collator=PackedImages.collate,
        callbacks=[LegTimer(skip)],
    )


def trainer_leg(recipe: Recipe, steps: int, skip: int) -> float:
    """Images a second of the Trainer's loop."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(recipe, steps, skip, folder)
        timer = next(item for item in trainer.callback_handler.callbacks if type(item) is LegTimer)
        trainer.train()
        return steps * trainer.args.per_device_train_batch_size / timer.seconds


def bare_leg(recipe: Recipe, steps: int, skip: int) -> float:
    """Images a second of forward, backward, clipping and step alone, on one batch that is ready."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(recipe, steps, skip, folder)
        optimizer = trainer.create_optimizer()
        batch = next(iter(trainer.get_train_dataloader()))
        inputs = trainer._prepare_inputs(batch)
        device = inputs["pixel_values"].device
        model: torch.nn.Module = trainer.accelerator.unwrap_model(trainer.model)
        model.train()
        for step in range(steps + skip):
            if step == skip:
                start = time.perf_counter()
            autocast = torch.autocast(device.type, torch.bfloat16)
            with autocast if has_bfloat16() else nullcontext():
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return steps * len(batch["labels"]) / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python training/benchmark_training.py --help`."""
    parser = argparse.ArgumentParser(
        prog="python training/benchmark_training.py",
        description="Images a second of the Trainer's loop against the bare loop.",
    )
    recipes = ROOT / "training" / "recipes"
    parser.add_argument("--recipe", type=Path, default=recipes / "fer2013-two-cores.yaml")
    parser.add_argument("--steps", type=int, default=200, help="a leg; default: %(default)s")
    parser.add_argument("--legs", type=int, default=3, help="of each; default: %(default)s")
    parser.add_argument("--skip", type=int, default=5, help="steps before a leg's clock starts")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "benchmarks" / "training.json"
    )
    options = parser.parse_args(arguments)
    recipe = load_recipe(options.recipe)
    legs: dict[str, list[float]] = {"bare": [], "trainer": []}
    for _ in range(options.legs):
        legs["bare"].append(bare_leg(recipe, options.steps, options.skip))
        legs["trainer"].append(trainer_leg(recipe, options.steps, options.skip))
    medians = {name: statistics.median(values) for name, values in legs.items()}
    result = {
        "command": "python training/benchmark_training.py",
        "recipe": options.recipe.name,
        "steps": options.steps,
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bfloat16": has_bfloat16(),
        "images_per_second": {
            name: [round(value, 1) for value in values] for name, values in legs.items()
        },
        "median_images_per_second": {name: round(value, 1) for name, value in medians.items()},
        "trainer_to_bare": round(medians["trainer"] / medians["bare"], 4),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
