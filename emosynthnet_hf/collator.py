"""Rows of a data set -> a batch, for transformers' Trainer."""

from collections.abc import Mapping, Sequence
from typing import Any

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
        """
        for column in (self.image_column, self.label_column):
            if column not in rows[0]:
                raise KeyError(
                    f"rows must have a column {column!r}, got {', '.join(rows[0])}; "
                    f"the Trainer drops columns unless remove_unused_columns=False"
                )
        images = [row[self.image_column] for row in rows]
        labels = torch.as_tensor([row[self.label_column] for row in rows])
        return {
            "pixel_values": self.processor(images, return_tensors="pt")["pixel_values"],
            "labels": labels.float() if labels.is_floating_point() else labels.long(),
        }


__all__ = ["EmoSynthNetCollator"]
