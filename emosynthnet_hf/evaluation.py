"""One scorer for training, cards and verification: data set + checkpoint -> results.

    python -m emosynthnet_hf.evaluation CHECKPOINT --data PATH --split test

Weights stored in bfloat16 are read as float32 and computed in float32 unless `--dtype bfloat16`
asks for autocast, so the numbers are those of the file and not of a processor's rounding. The
headline is the single crop; flip averaging, the mean of the probabilities of a picture and of its
mirror image, is a view of its own. Where there is a train split, accuracy is given without the
pictures that are in it as well; where there are FER+ votes, agreement with them. Reading data sets
needs `pip install "emosynthnet-hf[train]"`.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils.tqdm import tqdm
from numpy.typing import NDArray
from torch import Tensor, nn

from . import __version__
from .data import EXPRESSIONS, PackedImages, expression_votes, load_splits, normalize_batch
from .duplicates import twins
from .image_processing_emosynthnet import EmoSynthNetImageProcessor
from .modeling_emosynthnet import EmoSynthNetForImageClassification
from .scores import (
    FloatArray,
    IntArray,
    Scores,
    TwinScores,
    VoteCeiling,
    VoteScores,
    check_fields,
    fit_temperature,
    log_softmax,
    score,
    score_twins,
    score_votes,
    vote_ceiling,
)

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CHECKPOINT_FILES = ("config.json", "preprocessor_config.json", WEIGHTS)
# What `emosynthnet_hf.faithfulness` found about a checkpoint's explanations; it may be missing.
FAITHFULNESS = "faithfulness.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SINGLE_CROP = "single_crop"
FLIP_AVERAGING = "flip_averaging"


@dataclass(frozen=True)
class EvaluationResult:
    """What one checkpoint scored on one split, and all that is needed to do it again.

    Attributes:
        checkpoint: folder name or Hub id.
        model_sha256: of model.safetensors.
        temperature: by which the logits were divided.
        dataset: folder name or Hub id.
        split: name of the split.
        data_sha256: fingerprint of the split, see `fingerprint`.
        num_samples: N.
        label_names: K names in label order.
        views: scores by view: `single_crop` always, `flip_averaging` if asked for.
        dtype: `float32`, or `bfloat16` for autocast.
        device, batch_size, num_threads: how it was computed.
        seconds, images_per_second: time in the network for the single crop, normalisation included.
        versions: of Python and of the libraries.
        command: shell command that makes this result.
        date: UTC, ISO 8601, to the second.
        twins: accuracy by view with and without the pictures that are in the train split as well;
            None where there is no train split to compare with.
        votes: agreement by view with FER+'s votes for the seven expressions; None without votes.
        vote_ceiling: what those votes themselves score.
    """

    checkpoint: str
    model_sha256: str
    temperature: float
    dataset: str
    split: str
    data_sha256: str
    num_samples: int
    label_names: tuple[str, ...]
    views: dict[str, Scores]
    dtype: str
    device: str
    batch_size: int
    num_threads: int
    seconds: float
    images_per_second: float
    versions: dict[str, str]
    command: str
    date: str
    twins: dict[str, TwinScores] | None = None
    votes: dict[str, VoteScores] | None = None
    vote_ceiling: VoteCeiling | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, for JSON."""
        return asdict(self) | {
            "label_names": list(self.label_names),
            "views": {name: view.to_dict() for name, view in self.views.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EvaluationResult":
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or unknown.
        """
        check_fields(cls, values)
        views = {name: Scores.from_dict(view) for name, view in values["views"].items()}
        converted: dict[str, Any] = {"label_names": tuple(values["label_names"]), "views": views}
        if values.get("twins"):
            converted["twins"] = {
                name: TwinScores(**entry) for name, entry in values["twins"].items()
            }
        if values.get("votes"):
            converted["votes"] = {
                name: VoteScores(**entry) for name, entry in values["votes"].items()
            }
        if values.get("vote_ceiling"):
            ceiling = values["vote_ceiling"]
            converted["vote_ceiling"] = VoteCeiling(
                **(ceiling | {"panel": VoteScores(**ceiling["panel"])})
            )
        return cls(**(values | converted))

    def save(self, path: Path) -> None:
        """Write as JSON; folders on the way are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "EvaluationResult":
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    images: PackedImages,
    processor: EmoSynthNetImageProcessor,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    flip: bool = False,
    progress: bool = False,
) -> FloatArray:
    """Logits (N, K), float64, of a whole split in evaluation mode, so divided by the temperature.

    The model is moved to `device` and left in evaluation mode.

    Args:
        model: an image classifier of transformers.
        images: the split, uint8 (N, C, m, m).
        processor: whose normalisation the weights expect.
        batch_size: pictures at a time.
        device: default the first CUDA device, or else the CPU.
        dtype: float32, or bfloat16 for autocast.
        flip: mirror each picture left to right.
        progress: show a progress bar.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    autocast = (
        contextlib.nullcontext()
        if dtype == torch.float32
        else torch.autocast(device.type, dtype=dtype)
    )
    batches: list[Tensor] = []
    with autocast, tqdm(total=len(images), unit="image", disable=not progress) as bar:
        for pixels in torch.split(images.pixels, batch_size):
            pixel_values = normalize_batch(pixels.to(device), processor)
            if flip:
                pixel_values = pixel_values.flip(-1)
            pixel_values = pixel_values.to(memory_format=torch.channels_last)
            batches.append(model(pixel_values=pixel_values).logits.float().cpu())
            bar.update(len(pixels))
    return torch.cat(batches).double().numpy()


def calibrate(
    model: EmoSynthNetForImageClassification,
    images: PackedImages,
    processor: EmoSynthNetImageProcessor,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Fit the temperature on a validation split, set `model.config.temperature`, and return it.

    The temperature that the config holds is undone first, so calibrating twice changes nothing.
    Calibrate the weights as they will be stored: after rounding to bfloat16, not before.
    """
    logits = predict_logits(
        model, images, processor, batch_size=batch_size, device=device, dtype=dtype
    )
    temperature = fit_temperature(logits * model.config.temperature, images.labels.numpy())
    # Four decimals are finer than float32 logits can tell apart.
    temperature = round(temperature, 4)
    model.config.temperature = temperature
    return temperature


def compute_metrics(prediction: Any) -> dict[str, float]:
    """Validation scores for `transformers.Trainer(compute_metrics=...)`.

    Args:
        prediction: `transformers.EvalPrediction` with logits (N, K), alone or first of a tuple, and
            label_ids (N,). The loss is the Trainer's own `eval_loss`.
    """
    logits = prediction.predictions
    if isinstance(logits, tuple):
        logits = logits[0]
    names = [str(number) for number in range(np.shape(logits)[1])]
    scores = score(log_softmax(logits), prediction.label_ids, names)
    return {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced_accuracy,
        "macro_precision": scores.macro_precision,
        "macro_recall": scores.macro_recall,
        "macro_f1": scores.macro_f1,
        "expected_calibration_error": scores.expected_calibration_error,
    }


def fingerprint(images: PackedImages) -> str:
    """SHA-256 over shape, pixels (uint8) and labels (little-endian int64), in the split's order.

    The pixels are those that the processor packed: another image size gives another fingerprint.
    """
    digest = hashlib.sha256(repr(tuple(images.pixels.shape)).encode())
    digest.update(images.pixels.contiguous().numpy().data)
    digest.update(images.labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str | Path,
    split: str = "test",
    *,
    flip: bool = False,
    compare_train: bool = True,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    dtype: str = "float32",
    output: str | Path | None = None,
    progress: bool = True,
    **reading: Any,
) -> EvaluationResult:
    """Score a checkpoint on a split and write the result as JSON.

    Args:
        checkpoint: folder or Hub id.
        data: Hub id, folder in Hub layout or image folder, as `load_splits` takes it.
        split: `train`, `validation` or `test`, or a split's own name.
        flip: score flip averaging as well.
        compare_train: read the train split, if there is one and it is not `split`, to find the
            pictures that are in it as well.
        batch_size: pictures at a time.
        device: default the first CUDA device, or else the CPU.
        dtype: `float32`, or `bfloat16` for autocast.
        output: file to write; by default `<checkpoint>/results/<dataset>-<split>.json`, and for a
            Hub id `results/<dataset>-<split>.json` in the current folder.
        progress: show progress bars.
        **reading: other keyword arguments of `load_splits`, such as `adapter` or `fold`.

    Raises:
        FileNotFoundError: no such checkpoint, or a file of it is missing.
        ImportError: the extra `train`, which reads data sets, is not installed.
        ValueError: an unknown dtype or split, an empty split, pictures that cannot be read, or
            label names of the data that are not the checkpoint's.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder, model, processor, label_names = load_checkpoint(checkpoint)
    images = load_images(data, split, processor, label_names, progress=progress, **reading)

    def predict(flip: bool) -> FloatArray:
        return log_softmax(
            predict_logits(
                model,
                images,
                processor,
                batch_size=batch_size,
                device=device,
                dtype=DTYPES[dtype],
                flip=flip,
                progress=progress,
            )
        )

    labels = images.labels.numpy()
    started = time.perf_counter()
    predictions = {SINGLE_CROP: predict(flip=False)}
    seconds = time.perf_counter() - started
    if flip:
        predictions[FLIP_AVERAGING] = np.logaddexp(
            predictions[SINGLE_CROP], predict(flip=True)
        ) - np.log(2)
    is_twin = (
        _twins_in_train(data, images, processor, progress=progress, **reading)
        if compare_train and split != "train"
        else None
    )
    votes = _expression_votes(images)

    command = ["python", "-m", "emosynthnet_hf.evaluation", str(checkpoint), "--data", str(data)]
    command += ["--split", split, "--batch-size", str(batch_size), "--dtype", dtype]
    command += ["--device", str(device)]
    command += ["--flip"] if flip else []
    for name, value in reading.items():
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    command += [] if compare_train else ["--no-compare-train"]
    result = EvaluationResult(
        checkpoint=checkpoint_name(checkpoint),
        model_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        temperature=model.config.temperature,
        dataset=dataset_name(data),
        split=split,
        data_sha256=fingerprint(images),
        num_samples=len(labels),
        label_names=tuple(label_names),
        views={name: score(values, labels, label_names) for name, values in predictions.items()},
        dtype=dtype,
        device=str(device),
        batch_size=batch_size,
        num_threads=torch.get_num_threads(),
        seconds=round(seconds, 3),
        images_per_second=round(len(labels) / seconds, 1),
        versions=versions(),
        command=shlex.join(command),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        twins=None
        if is_twin is None
        else {name: score_twins(values, labels, is_twin) for name, values in predictions.items()},
        votes=None
        if votes is None
        else {name: score_votes(values, votes) for name, values in predictions.items()},
        vote_ceiling=None if votes is None else vote_ceiling(labels, votes),
    )
    if output is None:
        parent = folder if Path(checkpoint).is_dir() else Path()
        output = parent / "results" / f"{result.dataset.replace('/', '--')}-{split}.json"
    result.save(Path(output))
    return result


def load_checkpoint(
    checkpoint: str | Path,
) -> tuple[Path, EmoSynthNetForImageClassification, EmoSynthNetImageProcessor, list[str]]:
    """Folder, model in float32 and in evaluation mode, processor and label names in their order.

    Raises:
        FileNotFoundError: no such checkpoint, or a file of it is missing.
    """
    folder = checkpoint_folder(checkpoint)
    model = EmoSynthNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
    processor = EmoSynthNetImageProcessor.from_pretrained(folder)
    id2label = cast(dict[int, str], model.config.id2label)
    return folder, model, processor, [id2label[label] for label in range(len(id2label))]


def checkpoint_name(checkpoint: str | Path) -> str:
    """Folder name or Hub id."""
    return Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else str(checkpoint)


def dataset_name(data: str | Path) -> str:
    """Folder name or Hub id."""
    return Path(data).resolve().name if Path(data).exists() else str(data)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a score depends on."""
    return {"python": platform.python_version(), "emosynthnet-hf": __version__} | {
        name: version(name) for name in ("torch", "transformers", "numpy", "pillow")
    }


def load_images(
    data: str | Path,
    split: str,
    processor: EmoSynthNetImageProcessor,
    label_names: list[str],
    *,
    progress: bool = False,
    **reading: Any,
) -> PackedImages:
    """A split of a data set, read with `load_splits(**reading)`, with the checkpoint's labels.

    Raises:
        ValueError: an unknown split, pictures that cannot be read, or other label names.
    """
    splits = load_splits(data, splits=(split,), **reading)
    names = splits[split].features["label"].names
    if names != label_names:
        raise ValueError(
            f"the checkpoint's labels are {', '.join(label_names)}, the data's {', '.join(names)}: "
            f"they must be the same names in the same order"
        )
    return PackedImages(splits[split], processor, progress=progress)


def _twins_in_train(
    data: str | Path,
    images: PackedImages,
    processor: EmoSynthNetImageProcessor,
    *,
    progress: bool,
    **reading: Any,
) -> NDArray[np.bool_] | None:
    """Which pictures (N,) are in the train split as well; None where that cannot be said."""
    try:
        train = load_splits(data, splits=("train",), **reading)["train"]
        return twins(PackedImages(train, processor, progress=progress).pixels, images.pixels)
    except ValueError as error:
        logger.warning("twins in train are not counted: %s", error)
        return None


def _expression_votes(images: PackedImages) -> IntArray | None:
    """FER+ votes (N, 7) in label order; None where the data set has none."""
    votes = images.columns.get("votes")
    if votes is None or votes.shape[1:] != (10,) or images.label_names != list(EXPRESSIONS):
        return None
    return expression_votes(votes)


def checkpoint_folder(checkpoint: str | Path) -> Path:
    """The local folder of a checkpoint, fetched from the Hub if it is not a folder.

    Raises:
        FileNotFoundError: neither a folder nor a repository that can be read, or a file is missing.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        try:
            wanted = [*CHECKPOINT_FILES, FAITHFULNESS]
            folder = Path(snapshot_download(str(checkpoint), allow_patterns=wanted))
        except (HFValidationError, OSError) as error:
            raise FileNotFoundError(
                f"checkpoint must be a folder or a readable Hub id, got {str(checkpoint)!r}: "
                f"{error}"
            ) from error
    missing = [name for name in CHECKPOINT_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"checkpoint {str(checkpoint)!r} must hold {', '.join(CHECKPOINT_FILES)}, "
            f"missing: {', '.join(missing)}"
        )
    return folder


def format_result(result: EvaluationResult) -> str:
    """A table to read in a terminal."""
    lines = [
        f"{result.checkpoint} on {result.dataset}, split {result.split}: "
        f"{result.num_samples} images, temperature {result.temperature:.4f}, "
        f"{result.dtype} on {result.device}, {result.images_per_second:.0f} images/s"
    ]
    width = max(len(name) for name in (*result.label_names, "class"))
    for view, scores in result.views.items():
        lines += [
            "",
            view.replace("_", " "),
            f"  accuracy                    {scores.accuracy:7.2%}",
            f"  balanced accuracy           {scores.balanced_accuracy:7.2%}",
            f"  macro precision             {scores.macro_precision:7.2%}",
            f"  macro recall                {scores.macro_recall:7.2%}",
            f"  macro F1                    {scores.macro_f1:7.2%}",
            f"  expected calibration error  {scores.expected_calibration_error:7.2%}",
            f"  loss (nats)                 {scores.loss:7.4f}",
            f"  risk-coverage area          {scores.risk_coverage_area:7.4f}",
            "",
            f"  {'class':{width}}  precision   recall       F1  support   predicted as "
            + " ".join(f"{name[:5]:>5}" for name in result.label_names),
        ]
        for (name, entry), row in zip(
            scores.per_class.items(), scores.confusion_matrix, strict=True
        ):
            lines.append(
                f"  {name:{width}}    {entry.precision:7.2%}  {entry.recall:7.2%}  {entry.f1:7.2%}"
                f"  {entry.support:7d}                " + " ".join(f"{count:5d}" for count in row)
            )
        if result.twins:
            twin = result.twins[view]
            without, of_twins = twin.accuracy_without_twins, twin.accuracy_of_twins
            lines += [
                "",
                f"  without the {twin.num_twins} pictures that are in train as well: "
                f"accuracy {'-' if without is None else f'{without:.2%}'}, "
                f"on them {'-' if of_twins is None else f'{of_twins:.2%}'}",
            ]
        if result.votes:
            votes = result.votes[view]
            lines += [
                "",
                f"  against the votes: accuracy {votes.accuracy:.2%}, "
                f"divergence {votes.divergence:.4f} nats",
            ]
    if result.vote_ceiling:
        ceiling = result.vote_ceiling
        lines += [
            "",
            f"votes on {ceiling.num_voted} pictures, a single majority on "
            f"{ceiling.num_majorities}: it is the label on {ceiling.label_agreement:.2%}; "
            f"a second panel: accuracy {ceiling.panel.accuracy:.2%}, "
            f"divergence {ceiling.panel.divergence:.4f} nats",
        ]
    return "\n".join(lines)


def append_reading(path: Path, result: EvaluationResult) -> None:
    """Add a row to the log of readings, a Markdown table that is made if `path` does not exist.

    A test split that is read often is no longer one: the log shows how often it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        if not file.tell():
            file.write(
                "| date | checkpoint | model_sha256 | data | split | view | accuracy | macro F1 |\n"
                "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
            )
        for view, scores in result.views.items():
            file.write(
                f"| {result.date} | {result.checkpoint} | {result.model_sha256[:12]} "
                f"| {result.dataset} | {result.split} | {view.replace('_', ' ')} "
                f"| {scores.accuracy:.2%} | {scores.macro_f1:.2%} |\n"
            )


def argument_parser() -> argparse.ArgumentParser:
    """Of the command line, and so of `EvaluationResult.command`."""
    parser = argparse.ArgumentParser(
        prog="python -m emosynthnet_hf.evaluation",
        description="Score a checkpoint on one split of a data set and write the result as JSON.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument(
        "--data", required=True, help="Hub id, folder in Hub layout or image folder"
    )
    parser.add_argument("--split", default="test", help="default: %(default)s")
    # What is not given is left to `load_splits`.
    reading = parser.add_argument_group(
        "reading the data", "as load_splits takes it", argument_default=argparse.SUPPRESS
    )
    reading.add_argument("--adapter", help="of the labels; default: found by their names")
    reading.add_argument("--image-column")
    reading.add_argument("--label-column")
    reading.add_argument("--config-name", help="of a Hub data set that has several")
    reading.add_argument("--validation-fraction", type=float, help="cut from train; default: 0.1")
    reading.add_argument("--fold", type=int, help="0 to 9, of ten folds by subject (CK+)")
    parser.add_argument(
        "--flip", action="store_true", help="score the mean with the mirror image as well"
    )
    parser.add_argument(
        "--compare-train",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="find the pictures that are in the train split as well; default: yes",
    )
    parser.add_argument("--batch-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--device", help="default: the first CUDA device, or else cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        help="default: CHECKPOINT/results/DATASET-SPLIT.json (Hub id: results/ in this folder)",
    )
    parser.add_argument("--log", type=Path, help="Markdown table to add this reading to")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python -m emosynthnet_hf.evaluation --help`."""
    options = vars(argument_parser().parse_args(arguments))
    log = options.pop("log")
    try:
        result = evaluate_checkpoint(**options)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_result(result))
    if log:
        append_reading(log, result)
    return 0


__all__ = [
    "EvaluationResult",
    "append_reading",
    "argument_parser",
    "calibrate",
    "checkpoint_folder",
    "checkpoint_name",
    "compute_metrics",
    "dataset_name",
    "evaluate_checkpoint",
    "fingerprint",
    "fit_temperature",
    "format_result",
    "load_checkpoint",
    "load_images",
    "predict_logits",
    "versions",
]


if __name__ == "__main__":
    sys.exit(main())
