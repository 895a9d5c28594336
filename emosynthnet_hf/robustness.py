"""What breaks a checkpoint first: accuracy under corruptions in five strengths each.

    python -m emosynthnet_hf.robustness CHECKPOINT --data PATH --split validation

Writes `<split>.json`, a table `<split>.md` and a figure `<split>.png`. Needs
`pip install "emosynthnet-hf[train]"`.
"""

import argparse
import copy
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import tqdm
from torch import Tensor

from .analysis.style import COLOURS, MARKERS, new_figure, save_figure
from .corruptions import CORRUPTIONS
from .evaluation import (
    DTYPES,
    WEIGHTS,
    checkpoint_name,
    dataset_name,
    fingerprint,
    load_checkpoint,
    load_images,
    predict_logits,
    versions,
)
from .scores import check_fields


@dataclass(frozen=True)
class CorruptionScores:
    """Accuracy of one corruption by strength, from weak to strong."""

    parameter: str
    strengths: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class RobustnessResult:
    """What one checkpoint scored on one split under every corruption.

    Attributes:
        checkpoint, model_sha256, dataset, split, data_sha256, num_samples, dtype, device: as in
            `evaluation.EvaluationResult`.
        accuracy: of the pictures as they are, single crop.
        corruptions: scores by the name in `CORRUPTIONS`.
        seed: of what is random in corruptions.
        versions, command, date: how and when it was computed.
    """

    checkpoint: str
    model_sha256: str
    dataset: str
    split: str
    data_sha256: str
    num_samples: int
    dtype: str
    device: str
    accuracy: float
    corruptions: dict[str, CorruptionScores]
    seed: int
    versions: dict[str, str]
    command: str
    date: str

    def save(self, path: Path) -> None:
        """Write as JSON; folders on the way are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "RobustnessResult":
        """Read what `save` wrote.

        Raises:
            ValueError: a field is missing or unknown.
        """
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check_fields(cls, values)
        corruptions = {
            name: CorruptionScores(
                entry["parameter"], tuple(entry["strengths"]), tuple(entry["accuracies"])
            )
            for name, entry in values["corruptions"].items()
        }
        return cls(**(values | {"corruptions": corruptions}))


def measure(
    checkpoint: str | Path,
    data: str | Path,
    split: str = "validation",
    *,
    adapter: str | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    progress: bool = True,
) -> RobustnessResult:
    """Score a checkpoint on a split, as it is and under every corruption, single crop.

    Args:
        checkpoint: folder or Hub id.
        data: as `data.load_splits` takes it.
        split: name of the split; choose with validation, not with test.
        adapter: of the data set's labels.
        batch_size: pictures at a time.
        device: default the first CUDA device, or else the CPU.
        dtype: `float32`, or `bfloat16` for autocast.
        seed: of what is random in corruptions.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no such checkpoint or data.
        ImportError: the extra `train` is not installed.
        ValueError: an unknown dtype or split, or data that does not fit the checkpoint.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    folder, model, processor, label_names = load_checkpoint(checkpoint)
    images = load_images(data, split, processor, label_names, adapter=adapter)

    def accuracy(pixels: Tensor) -> float:
        corrupted = copy.copy(images)
        corrupted.pixels = pixels
        logits = predict_logits(
            model, corrupted, processor, batch_size=batch_size, device=device, dtype=DTYPES[dtype]
        )
        return round(float((logits.argmax(axis=1) == images.labels.numpy()).mean()), 6)

    clean = accuracy(images.pixels)
    found = {}
    total = sum(len(corruption.strengths) for corruption in CORRUPTIONS.values())
    with tqdm(total=total, unit="strength", disable=not progress) as bar:
        for name, corruption in CORRUPTIONS.items():
            accuracies = []
            for strength in corruption.strengths:
                accuracies.append(accuracy(corruption(images.pixels, strength, seed=seed)))
                bar.update()
            found[name] = CorruptionScores(
                corruption.parameter, corruption.strengths, tuple(accuracies)
            )

    command = ["python", "-m", "emosynthnet_hf.robustness", str(checkpoint), "--data", str(data)]
    command += ["--split", split, "--batch-size", str(batch_size), "--dtype", dtype]
    command += ["--device", str(device), "--seed", str(seed)]
    command += ["--adapter", adapter] if adapter else []
    return RobustnessResult(
        checkpoint=checkpoint_name(checkpoint),
        model_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        dataset=dataset_name(data),
        split=split,
        data_sha256=fingerprint(images),
        num_samples=len(images),
        dtype=dtype,
        device=str(device),
        accuracy=clean,
        corruptions=found,
        seed=seed,
        versions=versions(),
        command=shlex.join(command),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def table(result: RobustnessResult) -> str:
    """Markdown: a row a corruption, a column a strength, the one that costs most first."""
    lines = [
        f"Accuracy of {result.checkpoint} on {result.dataset}, split {result.split}, "
        f"{result.num_samples:,} pictures, single crop; {result.accuracy:.1%} as they are. In "
        f"brackets the strength. The row with the lowest mean comes first.",
        "",
        "| corruption | strength is | 1 | 2 | 3 | 4 | 5 | mean |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, scores in sorted(result.corruptions.items(), key=lambda item: _mean(item[1])):
        cells = [
            f"{accuracy:.1%} ({strength:g})"
            for accuracy, strength in zip(scores.accuracies, scores.strengths, strict=True)
        ]
        lines.append(f"| {name} | {scores.parameter} | {' | '.join(cells)} | {_mean(scores):.1%} |")
    return "\n".join([*lines, "", "```sh", result.command, "```"])


def draw(result: RobustnessResult, path: Path) -> None:
    """One line a corruption, accuracy over strength 0 (the pictures as they are) to 5, as PNG."""
    figure, (axis,) = new_figure(7.5, 4.5)
    for (name, scores), colour, marker in zip(
        result.corruptions.items(), COLOURS, MARKERS, strict=True
    ):
        values = [100 * value for value in (result.accuracy, *scores.accuracies)]
        axis.plot(range(len(values)), values, color=colour, marker=marker, label=name)
    axis.set_xlabel("strength (0: as it is)")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axis.set_title(
        f"{result.checkpoint}, {result.dataset} {result.split}, {result.num_samples:,} pictures",
        fontsize="medium",
    )
    save_figure(figure, path)


def _mean(scores: CorruptionScores) -> float:
    return sum(scores.accuracies) / len(scores.accuracies)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python -m emosynthnet_hf.robustness --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m emosynthnet_hf.robustness",
        description="Score a checkpoint under corruptions: JSON, a table and a figure.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument(
        "--data", required=True, help="Hub id, folder in Hub layout or image folder"
    )
    parser.add_argument("--split", default="validation", help="default: %(default)s")
    parser.add_argument("--adapter", help="of the data's labels; default: found by its names")
    parser.add_argument("--batch-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--device", help="default: the first CUDA device, or else cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder; default: CHECKPOINT/robustness (Hub id: robustness in this folder)",
    )
    options = vars(parser.parse_args(arguments))
    output: Path | None = options.pop("output")
    try:
        result = measure(**options)
        checkpoint = Path(options["checkpoint"])
        output = output or (checkpoint if checkpoint.is_dir() else Path()) / "robustness"
        result.save(output / f"{result.split}.json")
        (output / f"{result.split}.md").write_text(table(result) + "\n", encoding="utf-8")
        draw(result, output / f"{result.split}.png")
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(result))
    return 0


__all__ = ["CorruptionScores", "RobustnessResult", "draw", "main", "measure", "table"]


if __name__ == "__main__":
    sys.exit(main())
