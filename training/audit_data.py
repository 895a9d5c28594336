"""Does a data set leak? Pictures in several splits, conflicting labels, shared subjects, balance.

    python training/audit_data.py DATA [--adapter fer2013] [--output docs/audits/fer2013.json]

Identical: the decoded pixels (8 bits, RGB) are. Near-identical: one photograph that was re-encoded,
brightened, watermarked or cut a little differently, or its mirror image, as
`emosynthnet_hf.duplicates.near_pairs` finds them. Subjects are read from file names such as CK+'s
S005_001_00000011.png. The report holds row numbers and no picture.
"""

import argparse
import json
import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub.utils.tqdm import tqdm
from torch import Tensor

from emosynthnet_hf.data import SPLIT_NAMES, load_splits
from emosynthnet_hf.duplicates import DETAIL, OUTLINE, digests, near_pairs, thumbnails
from emosynthnet_hf.image_processing_emosynthnet import read_image, to_grey_or_rgb

if TYPE_CHECKING:
    from datasets import Dataset

# CK+ (Lucey et al., 2010): subject, sequence, frame.
SUBJECT = re.compile(r"(?<![A-Za-z0-9])(S\d{3})_\d{3}_")


@dataclass(frozen=True)
class Row:
    """A picture's place, label and subject."""

    split: str
    row: int
    label: str
    subject: str | None


def audit(splits: Mapping[str, "Dataset"], *, progress: bool = False) -> dict[str, Any]:
    """The report on splits of `load_splits`, as plain dictionaries, lists and numbers.

    Rows are numbered from 0 in each split, in its order.

    Raises:
        ValueError: a picture that cannot be read, named with file, row and column.
    """
    splits = {name: splits[name] for name in sorted(splits, key=_order)}
    rows: list[Row] = []
    keys: list[bytes] = []
    small: list[Tensor] = []
    for name, split in splits.items():
        for row, pixels in _pictures(name, split, progress):
            rows.append(row)
            keys += digests(pixels)
            small.append(thumbnails(pixels))
    identical = groups_of(keys)
    # One picture of each group stands for all of them.
    pairs = near_pairs(torch.cat(small)[[members[0] for members in identical]])
    roots = join(len(identical), zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    alike = [
        [place for group in groups for place in identical[group]] for groups in groups_of(roots)
    ]
    return {
        "splits": {name: _balance([row for row in rows if row.split == name]) for name in splits},
        "identical": _report(rows, identical, list(splits)),
        "alike": _report(rows, alike, list(splits))
        | {
            "near_identical_pairs": len(pairs.first),
            "mirrored_pairs": int(pairs.mirrored.sum()),
            "least_correlations": {"outline": OUTLINE, "detail": DETAIL},
        },
        "subjects": _subjects(rows),
    }


def _pictures(name: str, split: "Dataset", progress: bool) -> Iterator[tuple[Row, Tensor]]:
    """Each row of a split and its pixels, uint8 (1, 3, h, w)."""
    from datasets import Image

    names = split.features["label"].names
    stored = split.select_columns(["image", "label", "origin"])
    examples = tqdm(
        stored.cast_column("image", Image(decode=False)), desc=name, disable=not progress
    )
    for place, example in enumerate(examples):
        picture = example["image"] or {"bytes": b"", "path": None}
        source = Path(picture["path"]) if picture["bytes"] is None else picture["bytes"]
        try:
            pixels = np.asarray(to_grey_or_rgb(read_image(source), 3))
        except (OSError, ValueError) as error:
            raise ValueError(f"{example['origin']}: {error}") from error
        found = SUBJECT.search(f"{picture['path']} {example['origin']}")
        row = Row(name, place, names[example["label"]], found[1] if found else None)
        # (h, w, 3) -> (1, 3, h, w)
        yield row, torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def groups_of(keys: Iterable[Hashable]) -> list[list[int]]:
    """Places of equal keys, in the order in which keys first occur."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        groups[key].append(place)
    return list(groups.values())


def join(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` places, one place that all places joined with it by pairs share."""
    parents = list(range(count))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    for first, second in pairs:
        parents[root(second)] = root(first)
    return [root(place) for place in range(count)]


def _balance(rows: Sequence[Row]) -> dict[str, Any]:
    counts = Counter(row.label for row in rows)
    return {"images": len(rows), "classes": dict(sorted(counts.items()))}


def _report(
    rows: Sequence[Row], groups: Sequence[Sequence[int]], splits: Sequence[str]
) -> dict[str, Any]:
    """Groups of at least two pictures: how many, with which labels, across which splits."""
    several = [[rows[place] for place in group] for group in groups if len(group) > 1]
    conflicting = [group for group in several if len({row.label for row in group}) > 1]
    across = {}
    for known, asked in combinations(splits, 2):
        found = [
            (row, {other.label for other in group if other.split == known})
            for group in several
            for row in group
            if row.split == asked
        ]
        leaked = sorted((row.row, row.label in labels) for row, labels in found if labels)
        across[f"{asked} in {known}"] = {
            "images": len(leaked),
            "with_another_label": sum(not same for _, same in leaked),
            "rows": [row for row, _ in leaked],
        }
    return {
        "groups": len(several),
        "images": sum(map(len, several)),
        "across": across,
        "groups_with_conflicting_labels": len(conflicting),
        "conflicting_labels": [
            [f"{row.split} {row.row} {row.label}" for row in group] for group in conflicting
        ],
    }


def _subjects(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Subjects by file name, and those who are in two splits; None where no name tells."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.subject is not None:
            splits[row.subject].add(row.split)
    if not splits:
        return None
    shared = {subject: sorted(names) for subject, names in splits.items() if len(names) > 1}
    return {
        "subjects": len(splits),
        "images_without": sum(row.subject is None for row in rows),
        "in_several_splits": dict(sorted(shared.items())),
    }


def format_report(report: Mapping[str, Any]) -> str:
    """The report to read in a terminal."""
    splits = report["splits"]
    lines = ["images by class"]
    names = sorted({name for split in splits.values() for name in split["classes"]})
    width = max(len(name) for name in (*names, "all"))
    lines.append(f"  {'':{width}}" + "".join(f"  {split:>18}" for split in splits))
    for name in names:
        counts = [(part["classes"].get(name, 0), part["images"]) for part in splits.values()]
        cells = [f"  {count:9,d} ({count / images:6.2%})" for count, images in counts]
        lines.append(f"  {name:{width}}" + "".join(cells))
    totals = [f"  {part['images']:9,d} {'':8}" for part in splits.values()]
    lines.append(f"  {'all':{width}}" + "".join(totals).rstrip())
    for kind, title in (("identical", "identical"), ("alike", "identical or near-identical")):
        part = report[kind]
        lines += [
            "",
            title,
            f"  {part['images']:,} images in {part['groups']:,} groups; "
            f"{part['groups_with_conflicting_labels']:,} groups with conflicting labels",
        ]
        lines += [
            f"  {where}: {found['images']:,} images, "
            f"{found['with_another_label']:,} of them under another label"
            for where, found in part["across"].items()
        ]
    subjects = report["subjects"]
    lines += ["", "subjects"]
    if subjects is None:
        lines.append("  not told by the file names")
    else:
        shared = subjects["in_several_splits"]
        lines.append(f"  {subjects['subjects']} subjects, {len(shared)} in several splits")
        lines += [f"  {subject}: {', '.join(names)}" for subject, names in shared.items()]
    return "\n".join(lines)


def to_json(report: Mapping[str, Any]) -> str:
    """Indented JSON with each list of numbers or of strings on one line."""
    text = json.dumps(report, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python training/audit_data.py --help`."""
    parser = argparse.ArgumentParser(
        prog="python training/audit_data.py",
        description="Find what leaks between the splits of a data set.",
    )
    parser.add_argument("data", help="Hub id, folder in Hub layout or image folder")
    parser.add_argument("--adapter", help="of the data's labels; default: found by its names")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    try:
        splits = load_splits(options.data, adapter=options.adapter)
        report = audit(splits, progress=True)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_report(report))
    if options.output:
        local = Path(options.data).exists()
        name = Path(options.data).resolve().name if local else options.data
        command = ["python", "training/audit_data.py", options.data]
        command += ["--adapter", options.adapter] if options.adapter else []
        command += ["--output", str(options.output)]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(
            to_json({"data": name, "command": shlex.join(command)} | report), encoding="utf-8"
        )
    return 0


def _order(split: str) -> tuple[int, str]:
    """Train, validation, test, others."""
    usual = list(SPLIT_NAMES)
    return (usual.index(split) if split in usual else len(usual), split)


if __name__ == "__main__":
    sys.exit(main())
