"""Data sets -> splits with one label order, and whole splits as uint8 tensors.

`load_splits` reads a Hub data set, a local folder in Hub layout or a folder of pictures and gives
every split the columns `image` and `label`, the labels in one canonical order. `PackedImages`
decodes a split once, so that an epoch costs no per-picture Python. Both find what is wrong with the
data before a training starts. Reading data needs the extra: pip install "emosynthnet-hf[train]".
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub.errors import HTTPError
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .image_processing_emosynthnet import EmoSynthNetImageProcessor

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# FER-2013's own order, which every checkpoint of expressions uses.
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label", "expression", "emotion")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "publictest"),
    "test": ("test", "testing", "privatetest"),
}
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
HUB_ID = r"\w[\w.-]*(/\w[\w.-]*)?"
OWN = "own"
MOST_ERRORS = 10
FOLDS = 10
# CK+ names its frames S###_###_########.png: subject, sequence, frame.
SUBJECT = re.compile(r"(?:^|[/\\])(S\d{3})_\d{3}_\d{8}\b", re.IGNORECASE)


@dataclass(frozen=True)
class LabelAdapter:
    """How one data set writes its labels.

    Attributes:
        name: of the adapter, as recipes give it.
        names: canonical name of each label as the data set writes it, its own spelling first.
        label_names: canonical names in canonical order.
    """

    name: str
    names: Mapping[str, str]
    label_names: tuple[str, ...] = EXPRESSIONS

    def __contains__(self, label: object) -> bool:
        return self._spelling(label) in self.names

    def encode(self, label: int | str) -> int:
        """A label as the data set writes it, in capitals or not -> its place in `label_names`.

        Raises:
            KeyError: the data set does not know the label.
        """
        if label not in self:
            raise KeyError(
                f"the adapter {self.name!r} knows {', '.join(self.names)}, got {label!r}"
            )
        return self.label_names.index(self.names[self._spelling(label)])

    def decode(self, index: int) -> str:
        """A place in `label_names` -> the label as the data set writes it: the first, where several
        were merged."""
        name = self.label_names[index]
        return next(label for label, canonical in self.names.items() if canonical == name)

    def _spelling(self, label: object) -> str:
        written = str(label).strip()
        return written if written in self.names else written.lower()


_WORDS = {
    **{name: name for name in EXPRESSIONS},
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}


def _numbered(names: Sequence[str], first: int = 0) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names, first)}


# Copies of one data set write its labels as numbers or as names: an adapter knows both.
ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        LabelAdapter("expressions", _WORDS),
        # FER-2013 (Goodfellow et al., 2013): 0 to 6.
        LabelAdapter("fer2013", _numbered(EXPRESSIONS) | _WORDS),
        # FER+ (Barsoum et al., 2016): the first seven of its ten columns of votes. The others are
        # contempt, unknown and not a face.
        LabelAdapter(
            "ferplus",
            _numbered(("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear")) | _WORDS,
        ),
        # RAF-DB (Li et al., 2017): 1 to 7.
        LabelAdapter(
            "rafdb",
            _numbered(("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), first=1)
            | _WORDS,
        ),
        # CK+ (Lucey et al., 2010); the thesis merges contempt into neutral (chapter 5).
        LabelAdapter(
            "ckplus", {"anger": "angry", "sadness": "sad"} | _WORDS | {"contempt": "neutral"}
        ),
        LabelAdapter("cifar10", _numbered(CIFAR10) | {name: name for name in CIFAR10}, CIFAR10),
    )
}


def own_labels(names: Sequence[str]) -> LabelAdapter:
    """The adapter of a data set whose own names and order are kept."""
    return LabelAdapter(OWN, {name.strip(): name for name in names}, tuple(names))


def expression_votes(votes: ArrayLike) -> NDArray[Any]:
    """FER+ votes (n, 10) -> votes (n, 7) in the order of `EXPRESSIONS`.

    Votes for contempt, unknown and not a face are left out.

    Raises:
        ValueError: another shape.
    """
    counts = np.asarray(votes)
    if counts.ndim != 2 or counts.shape[1] != 10:
        raise ValueError(f"FER+ votes must have shape (n, 10), got {counts.shape}")
    # What FER+ writes for an expression is the number of its column.
    columns = [int(ADAPTERS["ferplus"].decode(place)) for place in range(len(EXPRESSIONS))]
    return counts[:, columns]


def load_splits(
    data: str | Path,
    *,
    adapter: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    splits: Sequence[str] | None = None,
    config_name: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    fold: int | None = None,
) -> dict[str, "Dataset"]:
    """Splits `train`, `validation` and `test`, as far as they are there, with canonical labels.

    Where there is a train split and no validation split, one is cut from train, stratified by
    label; the log says so.

    Args:
        data: Hub id; or a folder in Hub layout (parquet files); or a folder of pictures, one
            sub-folder a class, with or without split folders above them.
        adapter: a name in `ADAPTERS`, or `own` for the data set's own names and order. By default
            the adapter named like the data set, or `expressions` when all its names are
            expressions, or else `own`.
        image_column, label_column: by default the first of `IMAGE_COLUMNS` and `LABEL_COLUMNS` that
            is there.
        splits: the ones to check and return; by default all.
        config_name: of a Hub data set that has several, such as SVHN's `cropped_digits`.
        validation_fraction: of train, in (0, 1), for a validation split that is cut.
        seed: of that cut, and of the folds.
        fold: 0 to 9. The one split `train` of data whose files (by path, or in a column `file`) are
            named as CK+ names them is parted into ten folds of subjects: fold `fold` becomes
            `test`, the next (0 after 9) `validation`, and the other eight `train`. No two share a
            subject.

    Returns:
        Data sets with an `image` column, a `label` column (ClassLabel with the canonical names), a
        column `origin` that says where the picture is, and what other columns there are.

    Raises:
        ImportError: the extra `train` is not installed.
        FileNotFoundError: no such folder or Hub data set, nothing in it, or no way to the Hub.
        ValueError: a missing column, unknown labels (up to ten are named with file, row and
            column), an empty split, an unknown adapter or split; a fold out of range, fewer than
            ten subjects, or files that name no subject.
    """
    if fold is not None and not 0 <= fold < FOLDS:
        raise ValueError(f"fold must be in [0, {FOLDS - 1}], got {fold}")
    if not 0.0 < validation_fraction < 1.0:
        raise ValueError(f"validation_fraction must be in (0, 1), got {validation_fraction}")
    read = _read(data, config_name)
    if fold is not None:
        read = _split_by_subject(data, read, fold, seed)
    cut = "train" in read and "validation" not in read
    there = [*read, "validation"] if cut else list(read)
    wanted = there if splits is None else list(splits)
    for name in wanted:
        if name not in there:
            raise ValueError(f"split must be one of {', '.join(there)}, got {name!r}")
    # Train decides which labels there are.
    parts = {
        name: _part(f"{data}, split {name}", split, origins, image_column, label_column)
        for name, (split, origins) in read.items()
        if name in (*wanted, "train")
    }
    labels = _choose_adapter(data, adapter, parts)
    loaded = {
        name: _canonical(part, labels)
        for name, part in parts.items()
        if name in wanted or (cut and "validation" in wanted)
    }
    if cut and "train" in loaded:
        rows = _stratified(np.asarray(loaded["train"]["label"][:]), validation_fraction, seed)
        logger.warning(
            "%s has no validation split: took %d of its %d training pictures for one (seed %d)",
            data,
            rows.sum(),
            len(rows),
            seed,
        )
        loaded["validation"] = loaded["train"].select(np.flatnonzero(rows))
        loaded["train"] = loaded["train"].select(np.flatnonzero(~rows))
    return {name: loaded[name] for name in wanted}


@dataclass(frozen=True)
class _Part:
    """One split as it was read.

    Attributes:
        split: its rows.
        image_column, label_column: names of its columns.
        origins: file and row of each row.
        labels: each row's label as the data set writes it; None where it has none.
        declared: names that the data set declares for its labels.
    """

    split: "Dataset"
    image_column: str
    label_column: str
    origins: list[str]
    labels: list[str | None]
    declared: list[str] | None


def _read(data: str | Path, config_name: str | None) -> dict[str, tuple["Dataset", list[str]]]:
    """Split by canonical name, and the file and row of each of its rows."""
    try:
        from datasets import load_dataset, load_dataset_builder
        from datasets.exceptions import DatasetGenerationError
    except ImportError as error:
        raise ImportError('reading data sets needs: pip install "emosynthnet-hf[train]"') from error

    folder = Path(data).expanduser()
    if not folder.is_dir():
        if folder.exists() or folder.is_absolute() or not re.fullmatch(HUB_ID, str(data)):
            raise FileNotFoundError(
                f"data must be a folder or the id of a Hub data set, got {data}"
            )
        source, files = str(data), {}
    elif any(folder.rglob("*.parquet")):
        source = str(folder)
        files = load_dataset_builder(source, config_name).config.data_files
    else:
        return _canonical_names(data, _read_pictures(folder))
    try:
        found = load_dataset(source, config_name)
    except (ValueError, DatasetGenerationError) as error:  # an empty split, a damaged file
        raise ValueError(f"{data}: {error.__cause__ or error}") from error
    except (HTTPError, OSError) as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(
            f"data must be a folder that exists, or the id of a Hub data set and a network that "
            f"reaches it (with HF_TOKEN where it is private or gated), got {data}: {error}"
        ) from error
    return _canonical_names(
        data,
        {
            name: (split, _origins(f"{data}, split {name}", len(split), files.get(name, ())))
            for name, split in found.items()
        },
    )


def _origins(where: str, num_rows: int, files: Sequence[str]) -> list[str]:
    """File and row of each row of a split that is stored in parquet files, one after the other, or
    else its row in the split."""
    from pyarrow.parquet import read_metadata  # type: ignore[import-untyped]

    if not files or not all(file.endswith(".parquet") for file in files):
        return [f"{where}, row {row}" for row in range(num_rows)]
    return [f"{file}, row {row}" for file in files for row in range(read_metadata(file).num_rows)]


def _read_pictures(folder: Path) -> dict[str, tuple["Dataset", list[str]]]:
    from datasets import Dataset

    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise FileNotFoundError(
            f"{folder} holds neither parquet files nor pictures ({', '.join(PICTURE_SUFFIXES)})"
        )
    top = sorted({path.relative_to(folder).parts[0] for path in files})
    for path in folder.iterdir():
        if path.is_dir() and path.name not in top and _split_name(path.name) in SPLIT_NAMES:
            raise ValueError(f"{path}: no pictures, at least 1 is needed")
    are_splits = [_split_name(name) in SPLIT_NAMES for name in top]
    if any(are_splits) and not all(are_splits):
        raise ValueError(
            f"the sub-folders of {folder} must be either splits or classes, got {', '.join(top)}"
        )
    roots = {name: folder / name for name in top} if all(are_splits) else {"train": folder}
    read = {}
    for name, root in roots.items():
        inside = [path for path in files if path.is_relative_to(root)]
        # <class>/<picture>, or deeper
        parts = [path.relative_to(root).parts for path in inside]
        rows = {
            "image": [str(path) for path in inside],
            "label": [part[0] if len(part) > 1 else None for part in parts],
        }
        read[name] = (Dataset.from_dict(rows), [str(path) for path in inside])
    return read


def _split_name(name: str) -> str:
    plain = name.lower().replace("_", "").replace("-", "")
    return next((split for split, aliases in SPLIT_NAMES.items() if plain in aliases), name)


def _canonical_names(
    data: str | Path, splits: Mapping[str, tuple["Dataset", list[str]]]
) -> dict[str, tuple["Dataset", list[str]]]:
    names: dict[str, str] = {}
    for name in splits:
        canonical = _split_name(name)
        if canonical in names:
            raise ValueError(
                f"{data}: at most one split may be {canonical}, got {names[canonical]} and {name}"
            )
        names[canonical] = name
    return {canonical: splits[name] for canonical, name in names.items()}


def _part(
    where: str,
    split: "Dataset",
    origins: list[str],
    image_column: str | None,
    label_column: str | None,
) -> _Part:
    if not len(split):
        raise ValueError(f"{where}: no rows, at least 1 is needed")
    image_column = _column(where, split, "image", image_column, IMAGE_COLUMNS)
    label_column = _column(where, split, "label", label_column, LABEL_COLUMNS)
    declared = getattr(split.features[label_column], "names", None)
    labels = [
        None if value is None else _written(value, declared) for value in split[label_column][:]
    ]
    return _Part(split, image_column, label_column, origins, labels, declared)


def _written(value: Any, declared: list[str] | None) -> str:
    if declared is None:
        return str(value)
    return declared[value] if 0 <= value < len(declared) else f"{value} of {len(declared)} names"


def _column(
    where: str, split: "Dataset", kind: str, given: str | None, usual: Sequence[str]
) -> str:
    for column in [given] if given else usual:
        if column in split.column_names:
            return column
    wanted = repr(given) if given else " or ".join(map(repr, usual))
    raise ValueError(
        f"{where}: no {kind} column {wanted}, the columns are {', '.join(split.column_names)}"
    )


def _choose_adapter(
    data: str | Path, given: str | None, parts: Mapping[str, _Part]
) -> LabelAdapter:
    if given is not None and given not in (*ADAPTERS, OWN):
        raise ValueError(f"adapter must be one of {', '.join((*ADAPTERS, OWN))}, got {given!r}")
    # What is not in train cannot be learnt: a name that only another split has is a mistake.
    known = [parts["train"]] if "train" in parts else list(parts.values())
    names = known[0].declared or sorted(
        {label for part in known for label in part.labels if label is not None},
        key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name),
    )
    data_name = Path(data).expanduser().resolve().name.lower().replace("-", "").replace("_", "")
    if given is None and data_name in ADAPTERS:
        given = data_name
    elif given is None:
        given = "expressions" if all(name.strip().lower() in _WORDS for name in names) else OWN
    adapter = own_labels(names) if given == OWN else ADAPTERS[given]
    logger.info(
        "%s: labels by the adapter %s: %s", data, adapter.name, ", ".join(adapter.label_names)
    )
    return adapter


def _split_by_subject(
    data: str | Path, read: Mapping[str, tuple["Dataset", list[str]]], fold: int, seed: int
) -> dict[str, tuple["Dataset", list[str]]]:
    if set(read) != {"train"}:
        raise ValueError(f"{data}: folds need the one split train, got {', '.join(read)}")
    split, origins = read["train"]
    # Folders of pictures have the names in their paths, a copy on the Hub in a column `file`.
    files = split["file"][:] if "file" in split.column_names else origins
    found = [SUBJECT.search(str(file)) for file in files]
    unnamed = [origin for origin, match in zip(origins, found, strict=True) if match is None]
    if unnamed:
        raise ValueError(_listed("files not named S###_###_########", unnamed, len(origins)))
    # (rows,): each row's subject
    subjects, rows = np.unique([match[1].upper() for match in found if match], return_inverse=True)
    if len(subjects) < FOLDS:
        raise ValueError(
            f"{data}: {FOLDS} folds need at least as many subjects, got {len(subjects)}"
        )
    # Subjects in random order are dealt to the folds in turn.
    folds = np.random.default_rng(seed).permutation(len(subjects))[rows] % FOLDS
    test, validation = folds == fold, folds == (fold + 1) % FOLDS
    masks = {"train": ~(test | validation), "validation": validation, "test": test}
    return {
        name: (split.select(np.flatnonzero(mask)), [origins[row] for row in np.flatnonzero(mask)])
        for name, mask in masks.items()
    }


def _stratified(labels: NDArray[Any], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which rows to take so that each label gives `fraction` of its rows, but at least one and
    never its last."""
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
        taken[generator.permutation(rows)[:count]] = True
    if not taken.any():
        raise ValueError(
            f"a validation split needs at least two pictures of a class, got {len(labels)} "
            f"pictures of as many classes"
        )
    return taken


def _canonical(part: _Part, adapter: LabelAdapter) -> "Dataset":
    from datasets import ClassLabel, Image, Value

    encoded, unknown = [], []
    for origin, label in zip(part.origins, part.labels, strict=True):
        if label is None or label not in adapter:
            unknown.append(f"{origin}, column {part.label_column!r}: {label!r}")
        else:
            encoded.append(adapter.encode(label))
    if unknown:
        raise ValueError(
            f"{_listed('unknown labels', unknown, len(part.labels))}\n"
            f"the adapter {adapter.name!r} knows {', '.join(adapter.names)}"
        )
    replaced = {part.label_column, "label", "image", "origin"} - {part.image_column}
    split = part.split.remove_columns(
        [name for name in part.split.column_names if name in replaced]
    )
    if part.image_column != "image":
        split = split.rename_column(part.image_column, "image")
    origins = [f"{origin}, column {part.image_column!r}" for origin in part.origins]
    return (
        split.add_column("label", encoded, feature=ClassLabel(names=list(adapter.label_names)))
        .add_column("origin", origins, feature=Value("string"))
        .cast_column("image", Image())
    )


def _listed(what: str, errors: Sequence[str], out_of: int) -> str:
    shown = "\n  ".join(errors[:MOST_ERRORS])
    more = f"\n  and {len(errors) - MOST_ERRORS} more" if len(errors) > MOST_ERRORS else ""
    return f"{len(errors)} {what} in {out_of} rows:\n  {shown}{more}"


class PackedImages(torch.utils.data.Dataset[dict[str, Tensor]]):
    """One split, decoded and held in memory.

    Indexing gives uint8 pixel values; `normalize_batch` makes of them what the processor would have
    given. As a data set of transformers' Trainer it takes `data_collator=PackedImages.collate`.

    Args:
        split: a split of `load_splits`.
        processor: whose grey or RGB conversion, resizing and padding are used.
        progress: show a progress bar.

    Attributes:
        pixels: uint8 (n, C, m, m).
        labels: int64 (n,).
        targets: what batches hold as labels: `labels`, or probabilities (n, K) put in their place.
        label_names: names of the labels in their order.
        columns: the split's other columns of numbers or strings, each an array of n rows: `origin`,
            and FER+'s `votes` (n, 10), say.

    Raises:
        ValueError: pictures that cannot be read; up to ten are named with file, row and column.
    """

    def __init__(
        self, split: "Dataset", processor: EmoSynthNetImageProcessor, *, progress: bool = False
    ) -> None:
        from datasets import Image
        from huggingface_hub.utils.tqdm import tqdm

        stored = split.select_columns(["image", "origin"]).cast_column("image", Image(decode=False))
        pixels: list[Tensor] = []
        errors: list[str] = []
        rows = tqdm(stored, disable=not progress, unit="image")
        for row in rows:
            try:
                pixels.append(_decode(row["image"], processor))
                if pixels[-1].shape != pixels[0].shape:
                    raise ValueError(
                        f"without resizing, all pictures must have one size, "
                        f"got {tuple(pixels[-1].shape)} after {tuple(pixels[0].shape)}"
                    )
            except (OSError, ValueError) as error:
                errors.append(f"{row['origin']}: {error}")
        if errors:
            raise ValueError(_listed("pictures cannot be used", errors, len(split)))
        self.pixels = torch.stack(pixels)
        self.labels = torch.tensor(split["label"][:])
        self.targets = self.labels
        self.label_names: list[str] = split.features["label"].names
        self.columns = _plain_columns(split)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.targets[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A whole batch at once, which torch's DataLoader asks for where it can."""
        chosen = torch.tensor(indices)
        return {"pixel_values": self.pixels[chosen], "labels": self.targets[chosen]}

    @staticmethod
    def collate(batch: Any) -> Any:
        """`__getitems__` has made the batch."""
        return batch


def _decode(stored: Mapping[str, Any] | None, processor: EmoSynthNetImageProcessor) -> Tensor:
    """A picture as `datasets` stores it -> uint8 (C, m, m)."""
    if stored is None:
        raise ValueError("no picture")
    source: Any = Path(stored["path"]) if stored["bytes"] is None else stored["bytes"]
    output = processor(source, do_rescale=False, do_normalize=False, return_tensors="pt")
    pixels: Tensor = output["pixel_values"][0]
    return pixels


def _plain_columns(split: "Dataset") -> dict[str, NDArray[Any]]:
    from datasets import ClassLabel, Value

    columns = {}
    for name in split.column_names:
        kind = split.features[name]
        # A list of numbers, votes say, has the numbers' kind inside.
        if name != "label" and isinstance(getattr(kind, "feature", kind), ClassLabel | Value):
            try:
                values = np.asarray(split[name][:])
            except ValueError:  # lists of different lengths
                continue
            if values.dtype.kind in "biufU":
                columns[name] = values
    return columns


def normalize_batch(pixels: Tensor, processor: EmoSynthNetImageProcessor) -> Tensor:
    """Pixels 0 to 255 -> pixel values as the processor makes them, on the pixels' device.

    Args:
        pixels: (N, C, m, m), uint8 or float, in [0, 255].
        processor: whose rescaling and normalisation are applied.

    Returns:
        (N, C, m, m) float32.
    """
    values = pixels.float()
    if processor.do_rescale:
        values = values * processor.rescale_factor
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
    "FOLDS",
    "LabelAdapter",
    "PackedImages",
    "expression_votes",
    "load_splits",
    "normalize_batch",
    "own_labels",
]
