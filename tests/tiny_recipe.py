"""A recipe that trains in seconds, and pictures for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("angry", "happy", "sad")
TINY: dict[str, Any] = {
    "analysis_widths": [[4] * 4, [4] * 4, [4] * 4, [4] * 3],
    "side_widths": [[4] * 3, [4], [4] * 3],
    "synthesis_widths": [4, 4],
}
RECIPE: dict[str, Any] = {
    "data": {"id": "faces"},
    "model": {"preset": "quarter", "image_size": 32, **TINY, "dense_dropout": 0.1},
    "augmentation": {"flip": 0.5, "rotation_degrees": 10},
}


def write_faces(folder: Path, per_class: Mapping[str, int], *shape: int) -> None:
    """For each split so many pictures of each of CLASSES: noise, its brightness tells the class."""
    generator = np.random.default_rng(0)
    for split, count in per_class.items():
        for number, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for picture in range(count):
                pixels = generator.random(shape) * 60 + 80 * number
                path = folder / split / name / f"{picture}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
