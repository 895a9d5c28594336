"""What each margin and loss costs beside F.cross_entropy: python tests/benchmark_losses.py

Forward and backward of `MarginLoss` on float32 logits, for 4,096 pictures of 7 classes and for 256
of 10,000. Margins are measured with the loss `ce`, losses with the margin `none`. All of them take
turns in an order that changes, each followed by F.cross_entropy; freed memory is kept, as in
training. Processor time of one thread, so that what else the machine does counts little. Given is
the ratio of the medians. The cosine layer of angular margins is not measured, the margin on its
logits is. Writes docs/benchmarks/losses.json.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "training")]

from emosynthnet_hf.configuration_emosynthnet import (  # noqa: E402
    CLASSIFIER_OF_MARGIN,
    LOSSES,
    MARGINS,
)
from emosynthnet_hf.margin_emosynthnet import MarginLoss  # noqa: E402
from trainer import keep_freed_memory  # noqa: E402

SHAPES = {"4096 x 7": (4096, 7), "256 x 10000": (256, 10_000)}
SECONDS = 40.0  # for each shape
SCALE = 30.0
# What eq. 2.10 needs, else it is another loss; classes of unequal size.
LOSS_KWARGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "dwb": lambda classes: {"class_counts": [1 + number % 50 for number in range(classes)]}
}


def norms(margin: str, samples: int, classes: int) -> Tensor | None:
    """What the classifier of this margin multiplies the cosines by."""
    classifier = CLASSIFIER_OF_MARGIN.get(margin)
    if classifier is None:
        return None
    if classifier == "cosine":
        return torch.full((1, 1), SCALE)
    return torch.full((samples, classes if classifier == "unbiased" else 1), SCALE)


def candidates(samples: int, classes: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Every margin and loss by name, as (logits, labels) -> loss."""

    def of(margin: str, loss: str) -> Callable[[Tensor, Tensor], Tensor]:
        kwargs = LOSS_KWARGS.get(loss, lambda _: {})(classes)
        module = MarginLoss(classes, margin, loss, loss_kwargs=kwargs)
        module.progress = 0.5
        lengths = norms(margin, samples, classes)
        return lambda logits, labels: module(logits, labels, norms=lengths)

    return {
        **{f"margin {name}": of(name, "ce") for name in MARGINS},
        **{f"loss {name}": of("none", name) for name in LOSSES},
    }


def measure(samples: int, classes: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of F.cross_entropy, and each candidate's ratio to it."""

    def processor_seconds(function: Callable[[Tensor, Tensor], Tensor]) -> float:
        logits = values.clone().requires_grad_()
        before = time.process_time()
        function(logits, labels).backward()
        return time.process_time() - before

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    # Cosines, as angular margins expect, times what they are multiplied by. As in many dimensions,
    # most angles are near 90 degrees: logits of N(0, 3^2).
    cosines = (0.1 * torch.randn(samples, classes, generator=generator)).clamp(-1, 1)
    values = SCALE * cosines
    functions = candidates(samples, classes)
    order = np.random.default_rng(0)
    names = list(functions)
    turns: list[tuple[dict[str, float], dict[str, float]]] = []
    started = time.monotonic()
    while time.monotonic() - started < seconds or len(turns) < 6:
        own, baseline = {}, {}
        for name in order.permutation(names):
            own[name] = processor_seconds(functions[name])
            baseline[name] = processor_seconds(F.cross_entropy)
        turns.append((own, baseline))
    warm = turns[1:]
    middle = float(np.median([value for _, baseline in warm for value in baseline.values()]))
    return {
        "turns": len(warm),
        "cross_entropy_milliseconds": round(1000 * middle, 3),
        "ratio": {
            name: round(float(np.median([own[name] for own, _ in warm])) / middle, 2)
            for name in names
        },
    }


def main() -> None:
    torch.set_num_threads(1)
    result = {
        "command": "python tests/benchmark_losses.py",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "shapes": {name: measure(*shape, SECONDS) for name, shape in SHAPES.items()},
    }
    output = ROOT / "docs" / "benchmarks" / "losses.json"
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    keep_freed_memory()
    main()
