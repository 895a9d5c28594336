"""What Grad-CAM of all classes costs, here and elsewhere: python tests/benchmark_explain.py

The preset `small` at 48 x 48 with random weights, a batch of 16, all seven classes, float32. Each
library runs in a process of its own, so that peak memory is its own, and in turns, so that a busy
minute does not fall on one. Memory is what a process needs at its peak, and how much of that came
with the batch: above what torch, the library, the model and a batch of one picture had needed.
Writes docs/benchmarks/explain.json. Needs

    pip install captum && pip install --no-deps grad-cam ttach torchcam

pytorch-grad-cam imports torchvision, for preparing pictures and for detection, which nothing here
uses; where torchvision is missing, empty stand-ins take the place of those imports.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from emosynthnet_hf import EmoSynthNetConfig, EmoSynthNetForImageClassification  # noqa: E402
from emosynthnet_hf.explain import DEFAULT_LAYER, grad_cam  # noqa: E402
from tests.tensor_output import Logits  # noqa: E402

BATCH, SIDE, CLASSES = 16, 48, 7
PACKAGES = {
    "emosynthnet_hf": "emosynthnet-hf",
    "pytorch-grad-cam": "grad-cam",
    "captum": "captum",
    "torch-cam": "torchcam",
}


def resized(maps: Tensor) -> Tensor:
    """(N, h, w) -> (N, SIDE, SIDE)."""
    return nn.functional.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]


def ours(model: Logits, layer: nn.Module, pixels: Tensor) -> Tensor:
    return grad_cam(model, pixels, f"model.{DEFAULT_LAYER}")


def captum(model: Logits, layer: nn.Module, pixels: Tensor) -> Tensor:
    from captum.attr import LayerGradCam

    method = LayerGradCam(model, layer)
    maps = [
        method.attribute(pixels, target=label, relu_attributions=True).detach()[:, 0]
        for label in range(CLASSES)
    ]
    return torch.stack([resized(part) for part in maps], dim=1)


def torch_cam(model: Logits, layer: nn.Module, pixels: Tensor) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(model, layer) as method:
        scores = model(pixels)
        maps = [
            method(label, scores, normalized=False, retain_graph=label + 1 < CLASSES)[0]
            for label in range(CLASSES)
        ]
    return torch.stack([resized(part) for part in maps], dim=1)


def pytorch_grad_cam(model: Logits, layer: nn.Module, pixels: Tensor) -> Tensor:
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        stand_in("torchvision")
        stand_in("torchvision.transforms", "Compose", "Normalize", "ToTensor")
        stand_in("torchvision.transforms.functional", "resize")
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model, [layer]) as method:
        maps = [
            torch.from_numpy(method(pixels, [ClassifierOutputTarget(label)] * len(pixels)))
            for label in range(CLASSES)
        ]
    return torch.stack(maps, dim=1)


def stand_in(name: str, *members: str) -> None:
    module = ModuleType(name)
    for member in members:
        setattr(module, member, None)
    sys.modules[name] = module


LIBRARIES: dict[str, Callable[[Logits, nn.Module, Tensor], Tensor]] = {
    "emosynthnet_hf": ours,
    "pytorch-grad-cam": pytorch_grad_cam,
    "captum": captum,
    "torch-cam": torch_cam,
}


def measure(library: str, repetitions: int, threads: int) -> dict[str, Any]:
    """Seconds of each repetition, peak memory of the process, and likeness to our maps.

    Memory is in MiB.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = EmoSynthNetConfig.from_preset("small", image_size=SIDE, num_labels=CLASSES)
    model = Logits(EmoSynthNetForImageClassification(config)).eval()
    layer = model.get_submodule(f"model.{DEFAULT_LAYER}")
    pixels = torch.randn(BATCH, 1, SIDE, SIDE)
    method = LIBRARIES[library]
    method(model, layer, pixels[:1])  # imports, and whatever is made once
    before = peak_mebibytes()
    method(model, layer, pixels)
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        maps = method(model, layer, pixels)
        seconds.append(time.perf_counter() - started)
    peak = peak_mebibytes()
    # Each map scaled to [0, 1], as pytorch-grad-cam gives them.
    pair = [unit(part).flatten().double() for part in (maps, ours(model, layer, pixels))]
    return {
        "seconds": seconds,
        "peak": peak,
        "batch": peak - before,
        "correlation": float(torch.corrcoef(torch.stack(pair))[0, 1]),
    }


def peak_mebibytes() -> float:
    """The most that this process has held; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def unit(maps: Tensor) -> Tensor:
    lowest = maps.amin(dim=(2, 3), keepdim=True)
    return (maps - lowest) / (maps - lowest).amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes a library")
    parser.add_argument("--repetitions", type=int, default=10, help="in each process")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--only", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "benchmarks" / "explain.json"
    )
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.repetitions, options.threads)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in LIBRARIES}
    for _ in range(options.rounds):
        for name in LIBRARIES:
            command = [sys.executable, __file__, "--only", name]
            command += ["--repetitions", str(options.repetitions)]
            command += ["--threads", str(options.threads)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[name].append(json.loads(output.splitlines()[-1]))
    medians = {
        name: float(np.median([value for run in parts for value in run["seconds"]]))
        for name, parts in runs.items()
    }
    result = {
        "command": "python tests/benchmark_explain.py "
        f"--rounds {options.rounds} --repetitions {options.repetitions} "
        f"--threads {options.threads}",
        "what": f"Grad-CAM at {DEFAULT_LAYER}, small, {SIDE} x {SIDE}, batch {BATCH}, "
        f"{CLASSES} classes, float32",
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "torchvision": "real" if importlib.util.find_spec("torchvision") else "empty stand-ins",
        "libraries": {
            name: {
                "version": version(PACKAGES[name]),
                "median_seconds": round(medians[name], 4),
                "fastest_seconds": round(min(min(run["seconds"]) for run in parts), 4),
                "times_ours": round(medians[name] / medians["emosynthnet_hf"], 2),
                "peak_process_mebibytes": round(max(run["peak"] for run in parts)),
                "peak_batch_mebibytes": round(max(run["batch"] for run in parts)),
                "correlation_with_our_maps": round(min(run["correlation"] for run in parts), 4),
            }
            for name, parts in runs.items()
        },
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
