"""Train EmoSynthNet by a recipe: python training/train.py training/recipes/fer2013.yaml

The output folder holds the Trainer's checkpoints, `train.log`, `training_log.json` (a row an
epoch), `environment.json`, `recipe.yaml`, and at the end `final/`: the best weights by validation
accuracy, averaged with those of other checkpoints if the recipe says so, in Hub layout, in
bfloat16, calibrated, with their validation results. The test split is not read here.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from transformers import TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as transformers_logging

import all_cnn
from emosynthnet_hf import (
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    EmoSynthNetImageProcessor,
)
from emosynthnet_hf.data import PackedImages, load_splits
from emosynthnet_hf.evaluation import (
    calibrate,
    checkpoint_folder,
    compute_metrics,
    evaluate_checkpoint,
    fingerprint,
    format_result,
    load_checkpoint,
    predict_logits,
)
from emosynthnet_hf.losses import ProgressCallback
from recipe import Recipe, load_recipe
from trainer import (
    ImageTrainer,
    StopwatchCallback,
    TwoScaleCallback,
    WeightAveragingCallback,
    average_weights,
    has_bfloat16,
    keep_freed_memory,
)

logger = logging.getLogger("train")

# What every run has in common; a recipe may override it.
TRAINING_DEFAULTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
    "remove_unused_columns": False,
    "logging_steps": 50,
}


def train(recipe: Recipe, data: str, output: Path, *, resume: bool = False) -> Path:
    """Run a recipe and return the folder `final/`.

    Args:
        recipe: the experiment.
        data: Hub id or folder, usually `recipe.data.id`.
        output: folder of the run.
        resume: continue from the last checkpoint in `output`, if there is one.

    Raises:
        ValueError: data or recipe that cannot be used; nothing has been trained then.
    """
    if recipe.network != "emosynthnet":
        raise ValueError(
            f"model.network must be emosynthnet for a checkpoint in Hub layout, "
            f"got {recipe.network}: compare.py trains it"
        )
    packed = pack(recipe, data)
    others = models_to_average(recipe, packed["train"].label_names)
    trainer = fit(recipe, packed, output, resume=resume)
    if trainer.is_world_process_zero():
        return finalize(trainer, others, packed, recipe, data, output / "final")
    return output / "final"


def fit(
    recipe: Recipe, packed: dict[str, PackedImages], output: Path, *, resume: bool = False
) -> ImageTrainer:
    """The training itself, on the splits of `pack`: the trainer, which holds the best weights by
    validation accuracy. Other arguments and errors as in `train`."""
    label_names = packed["train"].label_names
    config = model_config(recipe, label_names)
    processor = image_processor(recipe, config)
    if recipe.class_weights == "inverse_frequency":
        config.class_weights = inverse_frequency(packed["train"].labels, len(label_names))
    packed["train"].targets = targets(recipe, packed["train"])

    arguments = training_arguments(recipe, output)
    set_seed(arguments.seed)
    trainer = ImageTrainer(
        model=initial_model(recipe, config),
        processor=processor,
        augmentation=recipe.augmentation,
        mixup_alpha=recipe.mixup_alpha,
        args=arguments,
        train_dataset=packed["train"],
        eval_dataset=packed["validation"],
        data_collator=PackedImages.collate,
        compute_metrics=compute_metrics,
    )
    trainer.add_callback(StopwatchCallback())
    trainer.add_callback(ProgressCallback())
    if recipe.ema_decay > 0:
        trainer.add_callback(WeightAveragingCallback(recipe.ema_decay))
    if recipe.two_scale is not None:
        trainer.add_callback(TwoScaleCallback(processor, recipe.two_scale))
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "environment.json", environment(arguments, packed))
        (output / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe)), encoding="utf-8")

    checkpoint = get_last_checkpoint(str(output)) if resume else None
    start = f"starting from {recipe.start_from or 'scratch'}"
    logger.info("%s", f"resuming from {checkpoint}" if checkpoint else start)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        write_json(output / "training_log.json", epoch_rows(trainer.state.log_history))
    return trainer


def pack(recipe: Recipe, data: str) -> dict[str, PackedImages]:
    """The splits train and validation, decoded. Arguments and errors as in `train`."""
    splits = load_splits(data, splits=("train", "validation"), **recipe.data.reading())
    for needed in ("train", "validation"):
        if needed not in splits:
            raise ValueError(f"{data} must have a split {needed}, got {', '.join(splits)}")
    config = model_config(recipe, splits["train"].features["label"].names)
    processor = image_processor(recipe, config)
    return {
        name: PackedImages(splits[name], processor, progress=True)
        for name in ("train", "validation")
    }


def model_config(recipe: Recipe, label_names: Sequence[str]) -> EmoSynthNetConfig:
    """The recipe's model, with the data's labels.

    Raises:
        ValueError: a value out of range, or a field that the recipe's network does not read.
    """
    settings = {name: value for name, value in recipe.model.items() if name != "network"}
    unread = [name for name in settings if name not in all_cnn.FIELDS]
    if recipe.network == "all_cnn" and unread:
        raise ValueError(
            f"model may hold network, {', '.join(all_cnn.FIELDS)} for all_cnn, "
            f"got {', '.join(unread)}"
        )
    values = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
        **settings,
    }
    if recipe.start_from is None:
        return EmoSynthNetConfig.from_preset(values.pop("preset", "base"), **values)
    # What was fitted to the checkpoint's own data goes.
    values = {"temperature": 1.0, "class_weights": None, **values}
    folder = checkpoint_folder(recipe.start_from)
    return EmoSynthNetConfig.from_pretrained(folder, **values)


def image_processor(recipe: Recipe, config: EmoSynthNetConfig) -> EmoSynthNetImageProcessor:
    """The model's processor; with `start_from`, the one that its weights expect."""
    if recipe.start_from is None:
        return EmoSynthNetImageProcessor.from_model_config(config, **recipe.processor)
    folder = checkpoint_folder(recipe.start_from)
    return EmoSynthNetImageProcessor.from_pretrained(folder, **recipe.processor)


def initial_model(
    recipe: Recipe, config: EmoSynthNetConfig
) -> EmoSynthNetForImageClassification | all_cnn.AllCNNForImageClassification:
    """A new model, or with `start_from` its weights: those of the head too, if it has the same
    labels in the same order and is of the same kind.

    Raises:
        ValueError: a checkpoint of other sizes than the recipe's model, or a margin that its
            network cannot have.
    """
    if recipe.network == "all_cnn":
        return all_cnn.AllCNNForImageClassification(config)
    model = EmoSynthNetForImageClassification(config)
    if recipe.start_from is None:
        return model
    folder = checkpoint_folder(recipe.start_from)
    source = EmoSynthNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
    try:
        model.emosynthnet.load_state_dict(source.emosynthnet.state_dict())
    except RuntimeError as error:
        raise ValueError(f"start_from {recipe.start_from}: {error}") from error
    # Compared by name: `ignore_mismatched_sizes` would keep a head of as many, but other, labels.
    before, now = source.config, config
    if (before.id2label, before.classifier) == (now.id2label, now.classifier):
        model.classifier.load_state_dict(source.classifier.state_dict())
    else:
        logger.info("the head is new: %s has another", recipe.start_from)
    return model


def models_to_average(
    recipe: Recipe, label_names: Sequence[str]
) -> list[EmoSynthNetForImageClassification]:
    """The checkpoints of `average_with`, in float32.

    Raises:
        ValueError: one with other labels, sizes or normalisation than the recipe's model.
    """
    config = model_config(recipe, label_names)
    processor = image_processor(recipe, config).to_dict()
    shapes = shapes_of(EmoSynthNetForImageClassification(config))
    models = []
    for checkpoint in recipe.average_with:
        _, model, its_processor, its_names = load_checkpoint(checkpoint)
        for what, got, wanted in (
            ("labels", its_names, list(label_names)),
            ("weights", shapes_of(model), shapes),
            ("preprocessing", its_processor.to_dict(), processor),
        ):
            if got != wanted:
                raise ValueError(f"average_with {checkpoint}: other {what} than the recipe's")
        models.append(model)
    return models


def shapes_of(model: torch.nn.Module) -> dict[str, torch.Size]:
    """Of each weight and statistic, by name."""
    return {name: value.shape for name, value in model.state_dict().items()}


def inverse_frequency(labels: torch.Tensor, num_labels: int) -> list[float]:
    """Class weights N / (K * N_k); 1 on average over the samples, 0 for a class without any."""
    counts = torch.bincount(labels, minlength=num_labels)
    weights = len(labels) / (num_labels * counts)
    return torch.where(counts > 0, weights, 0.0).tolist()


def targets(recipe: Recipe, images: PackedImages) -> torch.Tensor:
    """What is trained towards: the labels, int64 (N,), or with a teacher float32 (N, K), the labels
    blended with its probabilities.

    These are the mean over a picture and its mirror image, calibrated by the teacher's temperature.
    They are computed once, of the pictures without augmentation.

    Raises:
        ValueError: a teacher with other labels or of other pictures' size.
    """
    distillation = recipe.distillation
    if distillation is None:
        return images.labels
    _, model, processor, label_names = load_checkpoint(distillation.teacher)
    if label_names != images.label_names:
        raise ValueError(
            f"teacher {distillation.teacher} must know {', '.join(images.label_names)} in this "
            f"order, got {', '.join(label_names)}"
        )
    dtype = torch.bfloat16 if has_bfloat16() else torch.float32
    logger.info("asking %s about %d pictures", distillation.teacher, len(images))
    views = [
        torch.from_numpy(predict_logits(model, images, processor, flip=flip, dtype=dtype))
        for flip in (False, True)
    ]
    taught = torch.stack(views).softmax(dim=-1).mean(dim=0)  # (2, N, K) -> (N, K)
    labels = F.one_hot(images.labels, len(label_names)).double()
    return torch.lerp(labels, taught, distillation.weight).float()


def training_arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    """The recipe's arguments on this machine: bfloat16 and TensorBoard where they are there."""
    bfloat16 = has_bfloat16()
    device = "GPU" if torch.cuda.is_available() else "CPU"
    numbers = "bfloat16 autocast" if bfloat16 else "float32"
    logger.info(
        "computing in %s, channels_last, on %s, %d threads",
        numbers,
        device,
        torch.get_num_threads(),
    )
    machine = {
        "output_dir": str(output),
        "bf16": bfloat16,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": ["tensorboard"] if find_spec("tensorboard") else [],
    }
    try:
        return TrainingArguments(**(TRAINING_DEFAULTS | machine | recipe.training))
    except TypeError as error:
        raise ValueError(f"recipe, section training: {error}") from error


def finalize(
    trainer: ImageTrainer,
    others: Sequence[EmoSynthNetForImageClassification],
    packed: dict[str, PackedImages],
    recipe: Recipe,
    data: str,
    folder: Path,
) -> Path:
    """Best weights, or their mean with those of `others` -> Hub layout: rounded to bfloat16, then
    calibrated and evaluated as stored."""
    best = Path(str(trainer.state.best_model_checkpoint))
    processor = EmoSynthNetImageProcessor.from_pretrained(best)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if others:
        on_device = [other.to(trained.device) for other in others]
        trained = average_weights([trained, *on_device], packed["train"], processor)
    trained.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)

    model = EmoSynthNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
    temperature = calibrate(model, packed["validation"], processor)
    # Stored in bfloat16 to be small, loaded in float32 so that everybody computes the same scores.
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    logger.info("best checkpoint %s, temperature %.4f", best.name, temperature)
    result = evaluate_checkpoint(
        folder, data, "validation", flip=True, progress=False, **recipe.data.reading()
    )
    logger.info("%s", format_result(result))
    return folder


def epoch_rows(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's log as a row an epoch: mean training loss, learning rate, validation scores."""
    rows, losses, learning_rate = [], [], None
    for entry in history:
        if "loss" in entry:
            losses.append(entry["loss"])
            learning_rate = entry.get("learning_rate")
        elif "eval_loss" in entry:
            scores = {
                name.removeprefix("eval_"): value
                for name, value in entry.items()
                if name.startswith("eval_")
            }
            rows.append(
                {
                    "epoch": entry["epoch"],
                    "step": entry["step"],
                    "train_loss": sum(losses) / len(losses) if losses else None,
                    "learning_rate": learning_rate,
                    "run_seconds": entry.get("run_seconds"),
                    "validation": scores,
                }
            )
            losses = []
    return rows


def environment(arguments: TrainingArguments, packed: dict[str, PackedImages]) -> dict[str, Any]:
    """What a reader needs to judge and repeat the run."""
    root = Path(__file__).resolve().parent.parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    libraries = ("torch", "transformers", "accelerate", "datasets", "numpy")
    return {
        "command": ["python", *sys.argv],
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in libraries},
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": torch.cuda.device_count(),
        "bfloat16": arguments.bf16,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        "data": {
            name: {"images": len(images), "sha256": fingerprint(images)}
            for name, images in packed.items()
        },
    }


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Everything that is logged, metrics included, goes to the terminal and to a file; afterwards
    logging is as it was."""
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handlers: list[logging.Handler] = [
        logging.StreamHandler(),
        logging.FileHandler(path, encoding="utf-8"),
    ]
    root, library = logging.getLogger(), logging.getLogger("transformers")
    transformers_logging.get_verbosity()  # sets the library's logger up, if nothing has yet
    before = root.level, library.propagate, library.handlers[:]
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(form)
        root.addHandler(handler)
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        level, library.propagate, library.handlers[:] = before
        root.setLevel(level)


def recipe_parser(description: str, folder: str) -> argparse.ArgumentParser:
    """What every command that takes a recipe, usually of `folder`, understands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", type=Path, help=f"a file in {folder}")
    parser.add_argument("--data", help="Hub id or folder, instead of the recipe's")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the recipe; may be given again",
    )
    return parser


def main(
    arguments: Sequence[str] | None = None,
    *,
    run: Callable[..., Path] = train,
    description: str = "Train by a recipe.",
) -> int:
    """Command line: see `python training/train.py --help`.

    Args:
        arguments: default those of the process.
        run: what is done with the recipe, called as `train` is.
        description: of that.
    """
    parser = recipe_parser(description, "training/recipes/")
    parser.add_argument("--output", type=Path, help="default: runs/RECIPE")
    parser.add_argument("--preset", help="widths: base, small or quarter, instead of the recipe's")
    parser.add_argument("--resume", action="store_true", help="from the last checkpoint in OUTPUT")
    options = parser.parse_args(arguments)
    overrides = list(options.overrides)
    if options.preset:
        overrides.append(f"model.preset={options.preset}")
    output = options.output or Path("runs") / options.recipe.stem
    try:
        recipe = load_recipe(options.recipe, overrides)
        output.mkdir(parents=True, exist_ok=True)
        with logged_to(output / "train.log"):
            written = run(recipe, options.data or recipe.data.id, output, resume=options.resume)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nwritten: {written}")
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
