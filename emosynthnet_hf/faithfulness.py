"""Are explanations faithful? Deletion, insertion and the weight-randomisation check.

Pure functions over any map and any classifier, and a command that runs them on a checkpoint:

    python -m emosynthnet_hf.faithfulness CHECKPOINT --data PATH --split validation --images 500

Deletion and insertion are those of Petsiuk et al., 2018 (RISE, section 4.1); the cascading
randomisation is that of Adebayo et al., 2018 (Sanity Checks for Saliency Maps, section 3.1).
"""

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .data import normalize_batch
from .evaluation import (
    DTYPES,
    FAITHFULNESS,
    WEIGHTS,
    checkpoint_name,
    dataset_name,
    load_checkpoint,
    load_images,
)
from .evaluation import versions as library_versions
from .explain import DEFAULT_LAYER, LAYERS, METHODS, heat_maps, logits_of

FloatArray = NDArray[np.float64]
Classifier = Callable[[Tensor], Any]
MapFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]

RESAMPLES = 2000
# What maps are alike by chance: those of different pictures by one network.
CHANCE = "other picture"
# From the output down, as Adebayo et al. go.
CASCADE = (
    "classifier",
    "emosynthnet.dense2",
    "emosynthnet.dense1",
    "emosynthnet.block5b",
    "emosynthnet.block5a",
    "emosynthnet.side_branch",
    "emosynthnet.block4",
    "emosynthnet.block3",
    "emosynthnet.block2",
    "emosynthnet.block1",
)


def pixel_ranks(maps: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rank of each pixel, 0 for the largest value of its map; ties in the order of a random map.

    A rectified map is 0 over large parts: any fixed order of those would be a hidden second map.
    The random one is as coarse as that of `random_maps`, so that a map without a mark fares as
    those do: pixels scattered one by one make a picture that no network has seen, and deletion
    would praise the emptiest map for that.

    Args:
        maps: (..., H, W).
        generator: of the random maps, on the CPU.

    Returns:
        int64 (..., H, W), each map a permutation of 0 to H W - 1.
    """
    flat = maps.flatten(-2)
    count, size = flat[..., 0].numel(), (maps.shape[-2], maps.shape[-1])
    without = random_maps(count, size, generator=generator).reshape(flat.shape)
    shuffle = without.argsort(dim=-1).to(maps.device)
    order = flat.gather(-1, shuffle).argsort(dim=-1, descending=True, stable=True)
    # The inverse of a permutation is its argsort.
    return shuffle.gather(-1, order).argsort(dim=-1).reshape(maps.shape)


def perturbation_curves(
    classifier: Classifier,
    start: Tensor,
    end: Tensor,
    ranks: Tensor,
    classes: Tensor,
    *,
    steps: int = 10,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A class's probability while pixels of `start` are replaced by those of `end`, by rank.

    Deletion goes from the picture to a picture without information, insertion the other way round.

    Args:
        classifier: (N, C, H, W) -> logits (N, K), or an output that has `logits`.
        start, end: (N, C, H, W).
        ranks: (N, n, H, W) of n maps a picture, as from `pixel_ranks`: rank 0 is replaced first.
        classes: int64 (N,), the class whose probability is followed.
        steps: equal parts in which the pixels are replaced.
        batch_size: pictures in a forward pass.
        dtype: float32, or bfloat16 for autocast.

    Returns:
        float32 (N, n, steps + 1), probabilities at 0, 1/steps, ..., 1 of the pixels.

    Raises:
        ValueError: steps below 1, or shapes that do not fit together.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if (
        start.shape != end.shape
        or ranks.ndim != 4
        or ranks.shape[:1] + ranks.shape[2:] != start.shape[:1] + start.shape[2:]
        or classes.shape != start.shape[:1]
    ):
        raise ValueError(
            "start and end must be (N, C, H, W), ranks (N, n, H, W) and classes (N,), "
            f"got {tuple(start.shape)}, {tuple(end.shape)}, {tuple(ranks.shape)} and "
            f"{tuple(classes.shape)}"
        )
    num_pictures, num_maps, height, width = ranks.shape

    def probabilities(pixels: Tensor, targets: Tensor) -> Tensor:
        parts = [
            logits_of(classifier(part)).float().softmax(dim=1).gather(1, target[:, None])[:, 0]
            for part, target in zip(
                pixels.split(batch_size), targets.split(batch_size), strict=True
            )
        ]
        return torch.cat(parts)

    precision = torch.autocast(start.device.type, torch.bfloat16, enabled=dtype != torch.float32)
    with torch.no_grad(), precision:
        first, last = probabilities(start, classes), probabilities(end, classes)
        curves = [first[:, None].expand(-1, num_maps)]
        for step in range(1, steps):
            replaced = ranks < step * height * width / steps
            mixed = torch.where(replaced[:, :, None], end[:, None], start[:, None])
            # (N, n, C, H, W) -> (N n, C, H, W)
            values = probabilities(mixed.flatten(0, 1), classes.repeat_interleave(num_maps))
            curves.append(values.reshape(num_pictures, num_maps))
        curves.append(last[:, None].expand(-1, num_maps))
    return torch.stack(curves, dim=-1)


def area_under(curves: Tensor) -> Tensor:
    """Area under curves (..., steps + 1) over [0, 1], by trapezoids: (...)."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[-1] - 1), dim=-1)


def mean_picture(pixel_values: Tensor) -> Tensor:
    """Each picture (N, C, H, W) as its own mean colour: what deletion leaves."""
    return pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)


def blurred_picture(pixel_values: Tensor, sigma_pixels: float) -> Tensor:
    """Pictures (N, C, H, W) through a Gaussian, edges repeated: what insertion starts from."""
    radius = min(int(3 * sigma_pixels + 0.5), min(pixel_values.shape[2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=pixel_values.device).to(pixel_values.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_pixels**2))
    kernel = kernel / kernel.sum()
    channels = pixel_values.shape[1]
    padded = F.pad(pixel_values, (radius,) * 4, mode="replicate")
    for shape in ((-1, 1), (1, -1)):
        weight = kernel.reshape(1, 1, *shape).expand(channels, 1, *kernel.reshape(shape).shape)
        padded = F.conv2d(padded, weight, groups=channels)
    return padded


def random_maps(
    count: int, size: tuple[int, int], cells: int = 6, generator: torch.Generator | None = None
) -> Tensor:
    """Maps without knowledge: uniform noise on cells x cells, bilinearly (count, height, width).

    As coarse as Grad-CAM's grid. Noise on single pixels would be a weak opponent in insertion and a
    strong one in deletion, as scattered pixels make a picture that no network has seen.
    """
    noise = torch.rand(count, 1, cells, cells, generator=generator)
    return F.interpolate(noise, size, mode="bilinear", align_corners=False)[:, 0]


def centred_gaussian_map(size: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """The map of "faces are in the middle": a Gaussian, (height, width), sigma in sides."""
    rows, columns = (((torch.arange(side) + 0.5) / side - 0.5) ** 2 for side in size)
    return torch.exp(-(rows[:, None] + columns[None]) / (2 * sigma**2))


def bootstrap_interval(
    values: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """95 % interval of the mean of values (N, ...) over N, by the percentile bootstrap.

    For a paired comparison of two methods pass the differences, picture by picture.

    Returns:
        low, high: (...).

    Raises:
        ValueError: fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 values, got {count}")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    means = drawn @ values.reshape(count, -1) / count
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def cascading_randomization(
    model: nn.Module, modules: Sequence[str], *, seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """A copy of the model whose weights are drawn anew, module after module, cumulatively.

    Args:
        model: left as it is.
        modules: names, from the output down.
        seed: of the new weights; torch's global generator is left as it was.

    Yields:
        The name of the module drawn last, and the copy, which is the same object each time.

    Raises:
        ValueError: a name that is no module's, or weights that no `reset_parameters` draws.
    """
    changed = copy.deepcopy(model)
    named = dict(changed.named_modules())
    for number, name in enumerate(modules):
        if name not in named:
            raise ValueError(f"modules must be names of the model's modules, got {name!r}")
        with torch.random.fork_rng():
            torch.manual_seed(seed + number)
            for part_name, part in named[name].named_modules():
                if not any(True for _ in part.parameters(recurse=False)):
                    continue
                if not callable(reset := getattr(part, "reset_parameters", None)):
                    raise ValueError(
                        f"modules with weights must have reset_parameters, "
                        f"{name}.{part_name} ({type(part).__name__}) has none"
                    )
                reset()
        yield name, changed


def rank_correlation(first: FloatArray, second: FloatArray) -> FloatArray:
    """Spearman's correlation of maps (N, h, w) with maps (N, h, w), tied ranks averaged: (N,).

    0 where a map is constant: it says nothing.
    """
    values = np.zeros(len(first))
    for number, pair in enumerate(zip(first, second, strict=True)):
        one, other = (_average_ranks(one_map) for one_map in pair)
        spread = one.std() * other.std()
        if spread > 0:
            values[number] = ((one - one.mean()) * (other - other.mean())).mean() / spread
    return values


def _average_ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[inverse.ravel()]
    return ranks


def structural_similarity(first: Tensor, second: Tensor, window: int = 7) -> Tensor:
    """SSIM (Wang et al., 2004) of maps (N, h, w) in [0, 1], mean over full windows: (N,).

    Uniform windows, population variances, K1 = 0.01, K2 = 0.03.
    """

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[:, None].double(), window, stride=1)[:, 0]

    one, other = mean(first), mean(second)
    variances = mean(first.double() ** 2) - one**2 + mean(second.double() ** 2) - other**2
    covariance = mean(first.double() * second.double()) - one * other
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * one * other + c1) * (2 * covariance + c2)
    similarity = similarity / ((one**2 + other**2 + c1) * (variances + c2))
    return similarity.mean(dim=(1, 2))


def map_functions() -> dict[str, MapFunction]:
    """What is checked, by `explanation_name`.

    A function takes (model, pixel values (N, C, H, W), classes (N,)) to maps (N, H, W), as
    `explain.heat_maps` makes them.
    """

    def maps_of(method: str, layer: str) -> MapFunction:
        return lambda model, pixels, classes: heat_maps(
            model, pixels, method, layer, classes[:, None]
        )[:, 0]

    checked = [("grad_cam", layer) for layer in LAYERS]
    checked += [(method, DEFAULT_LAYER) for method in METHODS if method != "grad_cam"]
    return {explanation_name(*pair): maps_of(*pair) for pair in checked}


def explanation_name(method: str, layer: str) -> str:
    """A method of `explain.METHODS` with its layer, if it has one, as results name it."""
    return method if method == "guided_backpropagation" else f"{method} {layer}"


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, h, w), at least 0, each divided by its largest value: in [0, 1]."""
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def deletion_and_insertion(
    classifier: nn.Module,
    pixel_values: Tensor,
    methods: Mapping[str, MapFunction],
    *,
    steps: int = 10,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Curves of each method and of two maps without knowledge, for the predicted classes.

    Args:
        classifier: in evaluation mode.
        pixel_values: (N, C, H, W).
        methods: as from `map_functions`.
        steps, batch_size, dtype: as in `perturbation_curves`; maps are made without autocast.
        seed: of the random maps and of the order of ties.

    Returns:
        Method, or `random` or `centred_gaussian` -> deletion and insertion, each (N, steps + 1).
    """
    generator = torch.Generator().manual_seed(seed)
    names = [*methods, "random", "centred_gaussian"]
    size = (pixel_values.shape[2], pixel_values.shape[3])
    deletion: list[Tensor] = []
    insertion: list[Tensor] = []
    for pixels in pixel_values.split(batch_size):
        with torch.no_grad():
            classes = logits_of(classifier(pixels)).argmax(dim=1)
        maps = [method(classifier, pixels, classes) for method in methods.values()]
        maps.append(random_maps(len(pixels), size, generator=generator).to(pixels.device))
        maps.append(centred_gaussian_map(size).to(pixels.device).expand(len(pixels), -1, -1))
        ranks = pixel_ranks(torch.stack(maps, dim=1), generator)
        blurred = blurred_picture(pixels, sigma_pixels=size[1] / 8)
        for start, end, curves in (
            (pixels, mean_picture(pixels), deletion),
            (blurred, pixels, insertion),
        ):
            curves.append(
                perturbation_curves(
                    classifier,
                    start,
                    end,
                    ranks,
                    classes,
                    steps=steps,
                    batch_size=batch_size,
                    dtype=dtype,
                )
            )
    deleted, inserted = torch.cat(deletion), torch.cat(insertion)
    return {name: (deleted[:, number], inserted[:, number]) for number, name in enumerate(names)}


def blank_share(
    classifier: nn.Module,
    pixel_values: Tensor,
    methods: Mapping[str, MapFunction],
    *,
    batch_size: int = 64,
) -> dict[str, float]:
    """By method, the share of pictures (N, C, H, W) whose map for the predicted class marks
    nothing: all of its values are the same."""
    blank = dict.fromkeys(methods, 0)
    for pixels in pixel_values.split(batch_size):
        with torch.no_grad():
            classes = logits_of(classifier(pixels)).argmax(dim=1)
        for name, method in methods.items():
            maps = method(classifier, pixels, classes).flatten(1)
            blank[name] += int((maps.amax(dim=1) == maps.amin(dim=1)).sum())
    return {name: count / len(pixel_values) for name, count in blank.items()}


def deletion_score(
    classifier: Classifier,
    pixel_values: Tensor,
    maps: Tensor,
    classes: Tensor,
    *,
    opponents: int = 4,
    steps: int = 10,
    batch_size: int = 64,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Areas under the deletion curves of maps, and of maps without knowledge on the same pictures.

    The smaller, the more of the class's probability hung on what the map marks.

    Args:
        classifier: in evaluation mode.
        pixel_values: (N, C, H, W).
        maps: (N, H, W), one a picture.
        classes: int64 (N,), the class that each map explains.
        opponents: random maps a picture, over which the second area is the mean.
        steps, batch_size: as in `perturbation_curves`.
        seed: of the random maps and of the order of ties.

    Returns:
        Two of (N,), each in [0, 1].
    """
    count, (height, width) = len(pixel_values), maps.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    without = random_maps(count * opponents, (height, width), generator=generator)
    without = without.reshape(count, opponents, height, width).to(maps)
    ranks = pixel_ranks(torch.cat([maps[:, None], without], dim=1), generator)
    curves = perturbation_curves(
        classifier,
        pixel_values,
        mean_picture(pixel_values),
        ranks,
        classes,
        steps=steps,
        batch_size=batch_size,
    )
    areas = area_under(curves)
    return areas[:, 0], areas[:, 1:].mean(dim=1)


def similarity_by_stage(
    model: nn.Module,
    pixel_values: Tensor,
    methods: Mapping[str, MapFunction],
    modules: Sequence[str],
    *,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, dict[str, tuple[FloatArray, FloatArray]]]:
    """How like the trained model's maps are those of ever more random models.

    The class explained stays the trained model's. The level of chance, `other picture`, compares
    the trained model's map of each picture with that of the next: faces are aligned, so that maps
    of different pictures are alike to a degree.

    Returns:
        Method -> stage (a module's name, or `other picture`) -> rank correlations and SSIM, (N,).
    """
    with torch.no_grad():
        classes = torch.cat([logits_of(model(part)) for part in pixel_values.split(batch_size)])
    classes = classes.argmax(dim=1)

    def maps_of(network: nn.Module, method: MapFunction) -> Tensor:
        parts = zip(pixel_values.split(batch_size), classes.split(batch_size), strict=True)
        return scaled(torch.cat([method(network, *part) for part in parts]).cpu())

    def compare(first: Tensor, second: Tensor) -> tuple[FloatArray, FloatArray]:
        correlation = rank_correlation(first.double().numpy(), second.double().numpy())
        return correlation, structural_similarity(first, second).numpy()

    trained = {name: maps_of(model, method) for name, method in methods.items()}
    similarity = {
        name: {CHANCE: compare(maps, maps.roll(1, dims=0))} for name, maps in trained.items()
    }
    for stage, network in cascading_randomization(model, modules, seed=seed):
        for name, method in methods.items():
            similarity[name][stage] = compare(trained[name], maps_of(network, method))
    return similarity


def summarize(
    curves: Mapping[str, tuple[Tensor, Tensor]],
    similarity: Mapping[str, Mapping[str, tuple[FloatArray, FloatArray]]],
) -> dict[str, Any]:
    """Means with 95 % intervals, and which method passes which check, ready for JSON.

    - Deletion is passed against a map without knowledge if the area is smaller, insertion if it is
      larger: if the interval of the paired differences lies on that side of 0.
    - Randomisation is passed if the maps are no more like the trained model's than those are like
      one another (`other picture`), by rank correlation, both with the upper half of the modules
      random and with all: if no interval of the paired differences lies above 0.
    """
    methods: dict[str, Any] = {}
    for name, both in curves.items():
        entry: dict[str, Any] = {}
        for check, number in (("deletion", 0), ("insertion", 1)):
            areas = area_under(both[number]).double().numpy()
            entry[check] = {
                "curve": _with_interval(both[number].double().numpy()),
                "area": _with_interval(areas),
            }
            if name not in similarity:
                continue
            entry[check]["against"] = {}
            for baseline in sorted(curves.keys() - similarity.keys()):
                difference = areas - area_under(curves[baseline][number]).double().numpy()
                low, high = bootstrap_interval(difference)
                passed = high < 0 if check == "deletion" else low > 0
                entry[check]["against"][baseline] = {
                    "difference": _with_interval(difference),
                    "passed": bool(passed),
                }
        if name in similarity:
            stages = similarity[name]
            drawn = [stage for stage in stages if stage != CHANCE]
            excess = {
                stage: stages[stage][0] - stages[CHANCE][0]
                for stage in (drawn[(len(drawn) - 1) // 2], drawn[-1])
            }
            entry["randomization"] = {
                "stages": {
                    stage: {
                        "rank_correlation": _with_interval(correlation),
                        "ssim": _with_interval(ssim),
                    }
                    for stage, (correlation, ssim) in stages.items()
                },
                "above_chance": {stage: _with_interval(part) for stage, part in excess.items()},
                "failed_at": [
                    stage for stage, part in excess.items() if bootstrap_interval(part)[0] > 0
                ],
            }
        methods[name] = entry
    return methods


def _with_interval(values: FloatArray) -> dict[str, Any]:
    low, high = bootstrap_interval(values)
    return {
        key: np.round(number, 4).tolist()
        for key, number in (("mean", values.mean(axis=0)), ("low", low), ("high", high))
    }


def failures(methods: Mapping[str, Any]) -> dict[str, list[str]]:
    """From `summarize`'s answer: method -> what it fails, as sentences without a subject."""
    found: dict[str, list[str]] = {}
    for name, entry in methods.items():
        if "randomization" not in entry:
            continue
        found[name] = []
        for check in ("deletion", "insertion"):
            against = entry[check]["against"]
            lost = [f"a {key.replace('_', ' ')}" for key in against if not against[key]["passed"]]
            if lost:
                found[name].append(
                    f"is not shown to be better than {' or '.join(lost)} map by {check}"
                )
        failed_at = entry["randomization"]["failed_at"]
        if failed_at:
            found[name].append(
                "keeps a likeness when the weights from the output down to "
                f"{' and '.join(failed_at)} are random numbers"
            )
    return found


def measure_checkpoint(
    checkpoint: str | Path,
    data: str | Path,
    split: str = "validation",
    *,
    images: int = 500,
    randomization_images: int = 100,
    steps: int = 10,
    batch_size: int = 64,
    dtype: str = "float32",
    device: str | None = None,
) -> dict[str, Any]:
    """All checks on pictures of a split, drawn at random with a fixed seed; ready for JSON.

    Raises:
        FileNotFoundError, ValueError: as in `evaluation.load_images`; fewer than two pictures; a
            dtype (of the curves' forward passes) other than float32 and bfloat16.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    chosen_device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder, model, processor, label_names = load_checkpoint(checkpoint)
    packed = load_images(data, split, processor, label_names)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(packed), generator=generator)[:images]
    if min(len(chosen), randomization_images) < 2:
        raise ValueError(f"at least 2 images are needed, got {images} and {randomization_images}")
    network: nn.Module = model
    network.to(device=chosen_device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    pixels = normalize_batch(packed.pixels[chosen].to(chosen_device), processor)
    pixels = pixels.to(memory_format=torch.channels_last)
    methods = map_functions()
    curves = deletion_and_insertion(
        network,
        pixels,
        methods,
        steps=steps,
        batch_size=batch_size,
        dtype=DTYPES[dtype],
    )
    similarity = similarity_by_stage(
        network, pixels[:randomization_images], methods, CASCADE, batch_size=batch_size
    )
    summary = summarize(
        {name: (one.cpu(), two.cpu()) for name, (one, two) in curves.items()}, similarity
    )
    return {
        "checkpoint": checkpoint_name(checkpoint),
        "model_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "dataset": dataset_name(data),
        "split": split,
        "num_images": len(chosen),
        "num_randomization_images": min(len(chosen), randomization_images),
        "steps": steps,
        "curves_dtype": dtype,
        "explained_class": "the predicted one",
        "interval": f"95 %, percentile bootstrap over pictures, {RESAMPLES} resamples",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": library_versions(),
        "blank_share": blank_share(network, pixels, methods, batch_size=batch_size),
        "methods": summary,
        "failures": failures(summary),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """A result of `measure_checkpoint` as a page: areas, what each method fails, how to read it."""
    methods, failed = result["methods"], result["failures"]
    lines = [
        f"# Are the explanations of {result['checkpoint']} faithful?",
        "",
        f"{result['num_images']} pictures of {result['dataset']}'s {result['split']} split, the "
        "predicted class, areas under the curves with 95 % intervals. Deletion replaces pixels by "
        "the picture's mean, what a map marks most first: the lower the class's probability falls, "
        "the better the map. Insertion restores them in a blurred picture: higher is better. "
        "`random` and `centred_gaussian` are maps that know nothing of the picture. A blank map "
        "marks nothing, and counts as a random one.",
        "",
        "| map | deletion | insertion | blank maps |",
        "| --- | --- | --- | --- |",
    ]
    blank = result["blank_share"]
    lines += [
        f"| {_short(name)} | {_cell(entry['deletion']['area'])} | "
        f"{_cell(entry['insertion']['area'])} | "
        f"{format(blank[name], '.1%') if name in blank else ''} |"
        for name, entry in methods.items()
    ]
    stages = next(
        entry["randomization"]["stages"] for entry in methods.values() if "randomization" in entry
    )
    drawn = [stage for stage in stages if stage != CHANCE]
    half, last = drawn[(len(drawn) - 1) // 2], drawn[-1]
    lines += [
        "",
        "Rank correlation of maps with the trained network's, on "
        f"{result['num_randomization_images']} of the pictures: after the weights from the output "
        "down to a module are drawn anew, and, as the level of chance, of one picture's map with "
        "another's. A map that still looks like the trained network's shows the picture, not the "
        "network.",
        "",
        f"| map | down to {half} | down to {last} | another picture |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {_short(name)} | "
        + " | ".join(
            _cell(entry["randomization"]["stages"][stage]["rank_correlation"])
            for stage in (half, last, CHANCE)
        )
        + " |"
        for name, entry in methods.items()
        if name in failed
    ]
    lines += ["", "What each fails:", ""]
    lines += [
        f"- {_short(name)} {'; '.join(sentences) if sentences else 'passes every check'}."
        for name, sentences in failed.items()
    ]
    lines += ["", f"Written by `{result['command']}`."]
    return "\n".join(lines) + "\n"


def _cell(area: Mapping[str, float]) -> str:
    return f"{area['mean']:.3f} ({area['low']:.3f} to {area['high']:.3f})"


def draw(result: Mapping[str, Any], path: str | Path) -> None:
    """The figure of a result of `measure_checkpoint`: curves with bands, similarity by stage.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the figure needs pip install "emosynthnet-hf[train]"') from error
    colours = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00")
    methods = result["methods"]
    explained = [name for name in methods if "randomization" in methods[name]]
    style: dict[str, dict[str, Any]] = {
        name: {"color": colour} for name, colour in zip(explained, colours, strict=True)
    }
    style |= {
        "random": {"color": "0.45", "linestyle": ":"},
        "centred_gaussian": {"color": "0.15", "linestyle": "--"},
    }
    figure = Figure(figsize=(12, 7.4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    fractions = np.linspace(0, 100, result["steps"] + 1)
    for axis, check, better in zip(
        upper.subplots(1, 2, sharey=True),
        ("deletion", "insertion"),
        ("lower is better", "higher is better"),
        strict=True,
    ):
        for name, entry in methods.items():
            curve, area = entry[check]["curve"], entry[check]["area"]["mean"]
            axis.plot(fractions, curve["mean"], label=f"{_short(name)}  {area:.3f}", **style[name])
            band = {"color": style[name]["color"], "alpha": 0.13, "linewidth": 0}
            axis.fill_between(fractions, curve["low"], curve["high"], **band)
        axis.set_title(f"{check.capitalize()}: {better}", loc="left", fontsize=11)
        axis.set_xlabel(
            "pixels replaced by the mean, %" if check == "deletion" else "pixels restored, %"
        )
        axis.legend(fontsize=7.5, title="area under the curve", title_fontsize=7.5, frameon=False)
    upper.axes[0].set_ylabel("probability of the predicted class")
    for axis, measure, title in zip(
        lower.subplots(1, 2, sharey=True),
        ("rank_correlation", "ssim"),
        ("Rank correlation", "SSIM"),
        strict=True,
    ):
        for name in explained:
            stages = methods[name]["randomization"]["stages"]
            values = [stages[stage][measure] for stage in stages if stage != CHANCE]
            mean, low, high = (
                np.array([1.0] + [value[key] for value in values])
                for key in ("mean", "low", "high")
            )
            axis.plot(mean, marker="o", markersize=3, label=_short(name), **style[name])
            axis.fill_between(
                range(len(mean)), low, high, color=style[name]["color"], alpha=0.13, linewidth=0
            )
            chance = stages[CHANCE][measure]["mean"]
            axis.plot(
                len(mean) - 0.5, chance, marker="<", markersize=6, clip_on=False, **style[name]
            )
        ticks = ["trained"] + [stage.rpartition(".")[2] for stage in stages if stage != CHANCE]
        axis.set_xticks(range(len(ticks)), ticks, rotation=35, ha="right", fontsize=8)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.set_title(f"{title} with the trained network's map", loc="left", fontsize=11)
        axis.set_xlabel("weights random from the output down to; ◂ other picture, same network")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{result['checkpoint']}, {result['dataset']} {result['split']}: "
        f"{result['num_images']} pictures (randomisation {result['num_randomization_images']}), "
        f"bands are 95 % intervals",
        fontsize=12,
        ha="left",
        x=0.01,
    )
    figure.savefig(path)


def _short(name: str) -> str:
    method, _, layer = name.partition(" ")
    words = {"grad_cam": "Grad-CAM", "guided_grad_cam": "Guided Grad-CAM"}
    title = words.get(method, method.replace("_", " "))
    return f"{title} {layer.split('.')[1]}" if layer else title


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python -m emosynthnet_hf.faithfulness --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m emosynthnet_hf.faithfulness",
        description="Check a checkpoint's explanations; write JSON, and beside it a figure (PNG) "
        "and a page (Markdown). In the checkpoint's own folder they are published with it, and the "
        "page of the Space reads them.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--data", required=True, help="Hub id, folder in Hub layout or of images")
    parser.add_argument("--split", default="validation", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=500, help="default: %(default)s")
    parser.add_argument(
        "--randomization-images",
        type=int,
        default=100,
        help="of them, for the weight randomisation; default: %(default)s",
    )
    parser.add_argument("--steps", type=int, default=10, help="of a curve; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the curves' forward passes, not of maps; default: %(default)s",
    )
    parser.add_argument("--device", help="default: the first CUDA device, or else cpu")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"default: {FAITHFULNESS} in CHECKPOINT, or here if that is a Hub id",
    )
    options = vars(parser.parse_args(arguments))
    folder = Path(options["checkpoint"])
    output = options.pop("output") or (folder if folder.is_dir() else Path()) / FAITHFULNESS
    try:
        result = measure_checkpoint(**options)
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(result, output.with_suffix(".png"))
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    written = {"command": _command(options, output), **result}
    output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(markdown(written), encoding="utf-8")
    for name, sentences in result["failures"].items():
        print(f"{name}: {'; '.join(sentences) or 'passes all checks'}")
    return 0


def _command(options: Mapping[str, Any], output: Path) -> str:
    flags = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in {**options, "output": output}.items()
        if name not in ("checkpoint", "device")
    ]
    return " ".join(["python -m emosynthnet_hf.faithfulness", options["checkpoint"], *flags])


__all__ = [
    "CASCADE",
    "area_under",
    "blank_share",
    "blurred_picture",
    "bootstrap_interval",
    "cascading_randomization",
    "centred_gaussian_map",
    "deletion_and_insertion",
    "deletion_score",
    "draw",
    "explanation_name",
    "failures",
    "map_functions",
    "markdown",
    "mean_picture",
    "measure_checkpoint",
    "perturbation_curves",
    "pixel_ranks",
    "random_maps",
    "rank_correlation",
    "scaled",
    "similarity_by_stage",
    "structural_similarity",
    "summarize",
]


if __name__ == "__main__":
    sys.exit(main())
