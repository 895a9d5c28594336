"""Embeddings in the plane by t-SNE, checkpoints side by side, as in Figures 4.6 and 5.1.

    python -m emosynthnet_hf.analysis.tsne CHECKPOINT [CHECKPOINT2] --data PATH --split validation

The embedding is `pooler_output`, the 64 values before the classifier. t-SNE's picture depends on
its seed and shows neither distances nor sizes: the numbers beside it are computed on the embeddings
themselves. Writes `tsne-<checkpoints>-<dataset>-<split>.png` and `.json`. Needs
`pip install "emosynthnet-hf[train]"`.
"""

import argparse
import importlib
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..data import PackedImages, normalize_batch
from ..evaluation import checkpoint_name, dataset_name, load_checkpoint, load_images
from ..image_processing_emosynthnet import EmoSynthNetImageProcessor
from ..scores import FloatArray
from .style import COLOURS, file_name, new_figure, save_figure

# Of a panel's width and height, what a label takes.
LABEL_SHARE = np.array([0.16, 0.045])


@dataclass(frozen=True)
class Separation:
    """How far classes are apart in embeddings; the larger, the further.

    Attributes:
        silhouette: mean over samples of (b - a) / max(a, b), in [-1, 1], where a is the mean
            distance to the other samples of the class and b to those of the nearest other class
            (Rousseeuw, 1987).
        scatter_ratio: see `scatter_ratio`.
        nearest_neighbour_accuracy: share of samples whose nearest other sample is of their class.
    """

    silhouette: float
    scatter_ratio: float
    nearest_neighbour_accuracy: float


def scatter_ratio(embeddings: FloatArray, labels: NDArray[Any]) -> float:
    """Between-class over within-class scatter, `trace(S_B) / trace(S_W)` (Fisher's, by traces).

    Args:
        embeddings: (N, D).
        labels: (N,).
    """
    centre = embeddings.mean(axis=0)
    between = within = 0.0
    for label in np.unique(labels):
        members = embeddings[labels == label]
        mean = members.mean(axis=0)
        between += len(members) * float(((mean - centre) ** 2).sum())
        within += float(((members - mean) ** 2).sum())
    return between / within


def separation(embeddings: FloatArray, labels: NDArray[Any]) -> Separation:
    """The three numbers of embeddings (N, D) with labels (N,), by Euclidean distance.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: fewer than two classes.
    """
    metrics, neighbors = _sklearn("metrics"), _sklearn("neighbors")
    # The first neighbour of a point is left out when the points are those that were fitted.
    nearest = neighbors.NearestNeighbors(n_neighbors=1).fit(embeddings).kneighbors()[1][:, 0]
    return Separation(
        silhouette=round(float(metrics.silhouette_score(embeddings, labels)), 6),
        scatter_ratio=round(scatter_ratio(embeddings, labels), 6),
        nearest_neighbour_accuracy=round(float((labels[nearest] == labels).mean()), 6),
    )


def project(embeddings: FloatArray, *, seed: int = 0) -> FloatArray:
    """t-SNE (van der Maaten and Hinton, 2008), (N, D) -> (N, 2), perplexity 30 or below N / 3.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    tsne = _sklearn("manifold").TSNE(
        perplexity=min(30.0, (len(embeddings) - 1) / 3), init="pca", random_state=seed
    )
    return np.asarray(tsne.fit_transform(embeddings), dtype=np.float64)


@torch.inference_mode()
def embed(
    model: nn.Module,
    images: PackedImages,
    processor: EmoSynthNetImageProcessor,
    *,
    batch_size: int = 256,
) -> FloatArray:
    """Embeddings (N, D) of a whole split in evaluation mode, float64."""
    model.eval()
    batches = [
        model(pixel_values=normalize_batch(pixels, processor)).pooler_output
        for pixels in torch.split(images.pixels, batch_size)
    ]
    return torch.cat(batches).double().numpy()


def parted(places: FloatArray, width: float, height: float) -> FloatArray:
    """Centres of labels (K, 2), moved up and down until no two labels of this size overlap.

    Two that overlap are moved apart by the same amount, the lower one down.
    """
    moved = places.copy()
    for _ in range(100):
        still = True
        for one, other in itertools.combinations(range(len(moved)), 2):
            low, high = sorted((one, other), key=lambda label: moved[label, 1])
            overlap = height - (moved[high, 1] - moved[low, 1])
            if abs(moved[one, 0] - moved[other, 0]) < width and overlap > 1e-9 * height:
                moved[low, 1] -= overlap / 2
                moved[high, 1] += overlap / 2
                still = False
        if still:
            break
    return moved


def draw(
    points: dict[str, FloatArray],
    separations: dict[str, Separation],
    labels: NDArray[Any],
    label_names: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """A panel for each checkpoint, its points in their class's colour, as PNG.

    Args:
        points: (N, 2) by checkpoint.
        separations: by checkpoint.
        labels: (N,).
        label_names: by label; colours repeat after the seventh.
        title: of the figure.
        path: to write.
    """
    figure, axes = new_figure(5.2 * len(points) + 1.2, 5.2, num_axes=len(points))
    # Drawn in a random order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(labels))
    colours = np.array([COLOURS[label % len(COLOURS)] for label in labels])[order]
    for axis, (name, places) in zip(axes, points.items(), strict=True):
        axis.scatter(*places[order].T, s=5, c=colours, linewidths=0)
        present = [label for label in range(len(label_names)) if (labels == label).any()]
        middles = np.stack([np.median(places[labels == label], axis=0) for label in present])
        width, height = LABEL_SHARE * np.ptp(places, axis=0)
        for label, place in zip(present, parted(middles, width, height), strict=True):
            axis.annotate(
                label_names[label],
                place,
                ha="center",
                va="center",
                weight="bold",
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
            )
        found = separations[name]
        axis.set_title(
            f"{name}\nsilhouette {found.silhouette:.3f}, between / within {found.scatter_ratio:.3f}"
            f", nearest neighbour {found.nearest_neighbour_accuracy:.1%}",
            fontsize="small",
        )
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    handles = [
        axes[-1].scatter([], [], c=COLOURS[label % len(COLOURS)], label=name)
        for label, name in enumerate(label_names)
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize="medium")
    save_figure(figure, path)


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError('t-SNE needs: pip install "emosynthnet-hf[train]"') from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python -m emosynthnet_hf.analysis.tsne --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m emosynthnet_hf.analysis.tsne",
        description="Draw the embeddings of one or two checkpoints and measure their separation.",
    )
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("second", nargs="?", help="another one, drawn beside it")
    parser.add_argument(
        "--data", required=True, help="Hub id, folder in Hub layout or image folder"
    )
    parser.add_argument("--split", default="validation", help="default: %(default)s")
    parser.add_argument("--adapter", help="of the data's labels; default: found by its names")
    parser.add_argument("--seed", type=int, default=0, help="of t-SNE; default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path(), help="folder; default: this one")
    options = parser.parse_args(arguments)
    checkpoints = [options.checkpoint] + ([options.second] if options.second else [])
    names = [checkpoint_name(checkpoint) for checkpoint in checkpoints]
    dataset = dataset_name(options.data)
    path = options.output / file_name("tsne", *names, dataset, options.split)
    points, separations = {}, {}
    try:
        if len(set(names)) < len(names):
            raise ValueError(f"two checkpoints must have two names, got {names[0]} twice")
        for checkpoint, name in zip(checkpoints, names, strict=True):
            _, model, processor, label_names = load_checkpoint(checkpoint)
            images = load_images(
                options.data, options.split, processor, label_names, adapter=options.adapter
            )
            labels = images.labels.numpy()
            embeddings = embed(model, images, processor)
            separations[name] = separation(embeddings, labels)
            points[name] = project(embeddings, seed=options.seed)
        title = f"t-SNE of embeddings, {dataset} {options.split}, {len(labels):,} pictures"
        draw(points, separations, labels, label_names, title, path.with_name(path.name + ".png"))
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    values = {
        "dataset": dataset,
        "split": options.split,
        "seed": options.seed,
        # Counts and measures alone: the labels of a data set are not ours to give away.
        "pictures": dict(
            zip(label_names, np.bincount(labels, minlength=len(label_names)).tolist(), strict=True)
        ),
        "checkpoints": {name: asdict(found) for name, found in separations.items()},
    }
    path.with_name(path.name + ".json").write_text(
        json.dumps(values, indent=1) + "\n", encoding="utf-8"
    )
    for name, found in separations.items():
        print(name, *(f"{key} {value}" for key, value in asdict(found).items()), sep="\n  ")
    return 0


__all__ = [
    "Separation",
    "draw",
    "embed",
    "main",
    "parted",
    "project",
    "scatter_ratio",
    "separation",
]


if __name__ == "__main__":
    sys.exit(main())
