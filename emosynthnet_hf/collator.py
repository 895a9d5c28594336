"""Rows of a data set -> a batch, for transformers' Trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .image_processing_emosynthnet import EmoSynthNetImageProcessor


class EmoSynthNetCollator:
    """Processes the pictures of a batch and stacks its labels; give the Trainer
    `remove_unused_columns=False`.

    Args:
        processor: makes the pixel values.
        image_column, label_column: names of the columns.
    """

    def __init__(
        self,
        processor: EmoSynthNetImageProcessor,
        image_column: str = "image",
        label_column: str = "label",
    ) -> None:
        self.processor = processor
        self.image_column, self.label_column = image_column, label_column

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """
        Args:
            rows: each with a picture, as the processor takes it, and a label: an integer class or K
                probabilities.

        Returns:
            `pixel_values` float32 (N, C, m, m) and `labels` int64 (N,) or float32 (N, K).

        Raises:
            KeyError: a row lacks a column.
            ValueError: a picture that cannot be read, or labels of another kind.
        """
        for row in rows:
            for column in (self.image_column, self.label_column):
                if column not in row:
                    raise KeyError(
                        f"rows must have a column {column!r}, got {', '.join(row)}; "
                        f"the Trainer drops columns unless remove_unused_columns=False"
                    )
        images = [row[self.image_column] for row in rows]
        pixel_values = self.processor(images, return_tensors="pt")["pixel_values"]
        labels = np.asarray([row[self.label_column] for row in rows])
        if labels.ndim == 1 and labels.dtype.kind in "iu":
            return {"pixel_values": pixel_values, "labels": torch.from_numpy(labels).long()}
        if labels.ndim == 2 and labels.dtype.kind in "iuf":
            return {"pixel_values": pixel_values, "labels": torch.from_numpy(labels).float()}
        raise ValueError(
            f"labels must be integer classes or K probabilities, got {labels.dtype} of shape "
            f"{labels.shape}, such as {rows[0][self.label_column]!r}"
        )


__all__ = ["EmoSynthNetCollator"]
