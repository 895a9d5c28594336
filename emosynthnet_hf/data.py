"""Data sets -> splits with one label order, and whole splits as uint8 tensors.

`load_splits` reads a Hub data set, a local folder in Hub layout or a folder of pictures and gives
every split the columns `image` and `label`, the labels in one canonical order. `PackedImages`
decodes a split once, so that an epoch costs no per-picture Python. Reading data needs the extra:
pip install "emosynthnet-hf[train]".
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .image_processing_emosynthnet import EmoSynthNetImageProcessor

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# FER-2013's own order, which every checkpoint of expressions uses.
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "publictest"),
    "test": ("test", "testing", "privatetest"),
}
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
MOST_ERRORS = 10


@dataclass(frozen=True)
class LabelAdapter:
    """How one data set writes its labels.

    Attributes:
        name: of the adapter, as recipes give it.
        names: canonical name of each label as the data set writes it, in the data set's order.
        label_names: canonical names in canonical order.
    """

    name: str
    names: Mapping[str, str]
    label_names: tuple[str, ...] = EXPRESSIONS

    def encode(self, label: int | str) -> int:
        """A label as the data set writes it -> its place in `label_names`.

        Raises:
            KeyError: the data set does not know the label.
        """
        return self.label_names.index(self.names[str(label).strip().lower()])

    def decode(self, index: int) -> str:
        """A place in `label_names` -> the label as the data set writes it: the first, where several
        were merged."""
        name = self.label_names[index]
        return next(label for label, canonical in self.names.items() if canonical == name)


_WORDS = {
    **{name: name for name in EXPRESSIONS},
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}

ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        LabelAdapter("expressions", _WORDS),
        # FER-2013 (Goodfellow et al., 2013): integers 0 to 6.
        LabelAdapter("fer2013", {str(number): name for number, name in enumerate(EXPRESSIONS)}),
        # RAF-DB (Li et al., 2017): integers 1 to 7.
        LabelAdapter(
            "rafdb",
            {
                "1": "surprise",
                "2": "fear",
                "3": "disgust",
                "4": "happy",
                "5": "sad",
                "6": "angry",
                "7": "neutral",
            },
        ),
        # CK+ (Lucey et al., 2010); the thesis merges contempt into neutral (chapter 5).
        LabelAdapter(
            "ckplus",
            {
                "anger": "angry",
                "disgust": "disgust",
                "fear": "fear",
                "happy": "happy",
                "sadness": "sad",
                "surprise": "surprise",
                "neutral": "neutral",
                "contempt": "neutral",
            },
        ),
    )
}


def own_labels(names: Sequence[str]) -> LabelAdapter:
    """The adapter of a data set whose own names and order are kept."""
    return LabelAdapter("own", {name.strip().lower(): name for name in names}, tuple(names))


def load_splits(
    data: str | Path,
    *,
    adapter: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> dict[str, "Dataset"]:
    """Splits `train`, `validation` and `test`, as far as they are there, with canonical labels.

    Where there is a train split and no validation split, one is cut from train, stratified by
    label.

    Args:
        data: Hub id; or a folder in Hub layout (parquet files); or a folder of pictures, one
            sub-folder a class, with or without split folders above them.
        adapter: a name in `ADAPTERS`. By default the one named like the data set, or `expressions`
            when all its names are expressions, or else the data set's own names and order.
        image_column, label_column: by default the first of `IMAGE_COLUMNS` and `LABEL_COLUMNS` that
            is there.
        validation_fraction: of train, in (0, 1), for a validation split that is cut.
        seed: of that cut.

    Returns:
        Data sets with an `image` column, a `label` column (ClassLabel with the canonical names) and
        what other columns there are.

    Raises:
        ImportError: the extra `train` is not installed.
        FileNotFoundError: no such folder or Hub data set.
        ValueError: a missing column, an unknown label (split, row and column are named), an empty
            split, an unknown adapter.
    """
    raw = _read(data)
    splits = {_split_name(name): split for name, split in raw.items()}
    loaded = {
        name: _canonical(
            split, f"{data}, split {name}", Path(data).name, adapter, image_column, label_column
        )
        for name, split in splits.items()
    }
    if "train" in loaded and "validation" not in loaded:
        cut = loaded["train"].train_test_split(
            validation_fraction, seed=seed, stratify_by_column="label"
        )
        loaded |= {"train": cut["train"], "validation": cut["test"]}
        logger.warning(
            "%s has no validation split: took %d of its %d training pictures for one (seed %d)",
            data,
            len(cut["test"]),
            len(cut["train"]) + len(cut["test"]),
            seed,
        )
    return loaded


def _read(data: str | Path) -> Mapping[str, "Dataset"]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError('reading data sets needs: pip install "emosynthnet-hf[train]"') from error

    folder = Path(data)
    if folder.is_dir():
        pictures = any(path.suffix.lower() in PICTURE_SUFFIXES for path in folder.rglob("*"))
        tables = any(folder.rglob("*.parquet"))
        if not pictures and not tables:
            raise FileNotFoundError(f"{data} holds neither pictures nor parquet files")
        splits = (
            load_dataset(str(folder))
            if tables
            else load_dataset("imagefolder", data_dir=str(folder))
        )
    else:
        # The Hub's own errors, for a name that is no data set, say what was looked for.
        splits = load_dataset(str(data))
    return dict(splits)


def _split_name(name: str) -> str:
    for canonical, aliases in SPLIT_NAMES.items():
        if name.lower() in aliases:
            return canonical
    return name


def _canonical(
    split: "Dataset",
    where: str,
    data_name: str,
    adapter_name: str | None,
    image_column: str | None,
    label_column: str | None,
) -> "Dataset":
    from datasets import ClassLabel, Image

    if not len(split):
        raise ValueError(f"{where}: no rows, at least 1 is needed")
    image_column = _column(split, where, "image", image_column, IMAGE_COLUMNS)
    label_column = _column(split, where, "label", label_column, LABEL_COLUMNS)
    adapter, written = _written_labels(split, label_column, data_name, adapter_name)

    unknown = [
        row for row, label in enumerate(written) if label.strip().lower() not in adapter.names
    ]
    if unknown:
        listed = ", ".join(f"row {row}: {written[row]!r}" for row in unknown[:MOST_ERRORS])
        raise ValueError(
            f"{where}, column {label_column!r}: {len(unknown)} unknown labels ({listed}); "
            f"the adapter {adapter.name!r} knows {', '.join(adapter.names)}"
        )
    encoded = [adapter.encode(label) for label in written]
    names = {image_column: "image"} if image_column != "image" else {}
    return (
        split.remove_columns([label_column])
        .rename_columns(names)
        .add_column("label", encoded)
        .cast_column("label", ClassLabel(names=list(adapter.label_names)))
        .cast_column("image", Image())
    )


def _column(
    split: "Dataset", where: str, kind: str, given: str | None, usual: Sequence[str]
) -> str:
    for name in [given] if given else usual:
        if name in split.column_names:
            return name
    wanted = repr(given) if given else " or ".join(map(repr, usual))
    raise ValueError(
        f"{where}: no {kind} column {wanted}, the columns are {', '.join(split.column_names)}"
    )


def _written_labels(
    split: "Dataset", column: str, data_name: str, adapter_name: str | None
) -> tuple[LabelAdapter, list[str]]:
    """The adapter, and each row's label as the data set writes it."""
    values = split[column][:]
    names = getattr(split.features[column], "names", None)
    written = [str(value) if names is None or value is None else names[value] for value in values]
    if adapter_name is None and data_name in ADAPTERS:
        adapter_name = data_name
    if adapter_name is not None:
        if adapter_name not in ADAPTERS:
            raise ValueError(f"adapter must be one of {', '.join(ADAPTERS)}, got {adapter_name!r}")
        adapter = ADAPTERS[adapter_name]
        # A data set with names may still be listed by number in its adapter, as FER-2013 copies
        # are.
        if names is not None and not all(name.strip().lower() in adapter.names for name in names):
            by_words = ADAPTERS["expressions"]
            if all(name.strip().lower() in by_words.names for name in names):
                return by_words, written
        return adapter, written
    if names is None:
        names = sorted(
            set(written),
            key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name),
        )
    if all(name.strip().lower() in _WORDS for name in names):
        return ADAPTERS["expressions"], written
    return own_labels(names), written


class PackedImages(torch.utils.data.Dataset[dict[str, Tensor]]):
    """One split, decoded: `pixels` uint8 (n, C, m, m), `labels` int64 (n,), and numeric columns as
    arrays.

    Indexing gives uint8 pixel values; `normalize_batch` makes of them what the processor would have
    given. As a data set of transformers' Trainer it takes `data_collator=PackedImages.collate`.

    Args:
        split: a split of `load_splits`.
        processor: whose grey or RGB conversion, resizing and padding are used.
        progress: show a progress bar.

    Raises:
        ValueError: pictures that cannot be read; up to ten are named with file, row and column.
    """

    def __init__(
        self, split: "Dataset", processor: EmoSynthNetImageProcessor, *, progress: bool = False
    ) -> None:
        from datasets import Image
        from huggingface_hub.utils import tqdm

        pixels, errors = [], []
        rows = tqdm(
            split.cast_column("image", Image(decode=False))["image"],
            disable=not progress,
            unit="image",
        )
        for row, stored in enumerate(rows):
            try:
                encoded = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"])
                packed = processor(
                    encoded, do_rescale=False, do_normalize=False, return_tensors="pt"
                )
                pixels.append(packed["pixel_values"][0])
            except (OSError, ValueError, SyntaxError) as error:  # Pillow's, for broken files
                errors.append(f"row {row}, column 'image', file {stored['path']}: {error}")
        if errors:
            listed = "\n  ".join(errors[:MOST_ERRORS])
            raise ValueError(f"{len(errors)} of {len(split)} pictures cannot be read:\n  {listed}")
        self.pixels = torch.stack(pixels)
        self.labels = torch.tensor(split["label"][:])
        self.label_names: list[str] = split.features["label"].names
        self.columns = {
            name: values
            for name in split.column_names
            if name not in ("image", "label")
            and (values := np.asarray(split[name][:])).dtype.kind in "iuf"
        }

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A whole batch at once, which torch's DataLoader asks for where it can."""
        chosen = torch.tensor(indices)
        return {"pixel_values": self.pixels[chosen], "labels": self.labels[chosen]}

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`__getitems__` has made the batch."""
        return batch


def normalize_batch(
    pixels: Tensor, processor: EmoSynthNetImageProcessor, *, rescale_factor: float | None = None
) -> Tensor:
    """Pixels 0 to 255 -> pixel values as the processor makes them, on the pixels' device.

    Args:
        pixels: (N, C, m, m), uint8 or float, in [0, 255].
        processor: whose rescaling and normalisation are applied.
        rescale_factor: instead of the processor's own.

    Returns:
        (N, C, m, m) float32.
    """
    values = pixels.float()
    if processor.do_rescale:
        values = values * (processor.rescale_factor if rescale_factor is None else rescale_factor)
    if processor.do_normalize:
        # (C,) -> (C, 1, 1)
        mean, std = (
            torch.tensor(value, dtype=torch.float32, device=pixels.device).reshape(-1, 1, 1)
            for value in (processor.image_mean, processor.image_std)
        )
        values = (values - mean) / std
    return values


__all__ = [
    "ADAPTERS",
    "EXPRESSIONS",
    "LabelAdapter",
    "PackedImages",
    "load_splits",
    "normalize_batch",
    "own_labels",
]
