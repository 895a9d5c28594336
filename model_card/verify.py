"""Prove a checkpoint's numbers, or name those that are wrong.

    python model_card/verify.py checkpoints/NAME --data PATH [--split validation]
    python model_card/verify.py OWNER/NAME --data PATH

PATH is the data that the results were made on, a folder or a Hub id. The card says how many
pictures each split has and gives its fingerprint. A copy of the same name may be other data: the
Hub's AutumnQiu/fer2013 has pictures that the data of checkpoints/emosynthnet-small-fer2013 lacks.

1. The SHA-256 of the weights must be the one in every results file.
2. Every number in the card and in the Hub's evaluation files must be the one that
   `model_card/build.py` writes from the results files. No tolerance.
3. The splits are evaluated again, as the results files' own commands say, and every number in them
   must come out again. Tolerance: on another machine a picture whose two largest probabilities are
   almost equal may be decided otherwise. One picture in a thousand, but at least one, may be; so
   counts may differ by so many, a share of n pictures by so many / n, a macro average by as much as
   all of them being of the smallest class, and what is measured in nats by 0.001. Data with another
   fingerprint proves nothing about these numbers: it is named instead.

Ends with 1 if there are differences, which it shows in a table, or if the data is other data.
"""

import argparse
import difflib
import hashlib
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError

from build import card_files
from emosynthnet_hf.evaluation import (
    FLIP_AVERAGING,
    WEIGHTS,
    EvaluationResult,
    argument_parser,
    dataset_name,
    evaluate_checkpoint,
)
from publish import NEEDED, RECORDS

PROGRAM = ("python", "-m", "emosynthnet_hf.evaluation")
# When, where and how fast a result was made may differ.
NOT_COMPARED = {
    *("checkpoint", "dataset", "device", "num_threads", "seconds", "images_per_second"),
    *("versions", "command", "date"),
}
NATS = ("loss", "divergence")
NATS_TOLERANCE = 0.001
MACRO = ("balanced_accuracy", "macro_precision", "macro_recall", "macro_f1")
EXACT = ("temperature", "lower", "upper")
# Fields that say how many pictures the numbers beside them are of.
SIZES = ("num_samples", "support", "count", "num_voted")
# The risk-coverage curve starts with the surest twentieth.
FIRST_COVERAGE = 20
# A number that stands alone, not a part of a name, a path or a date.
NUMBER = re.compile(r"(?<![\w.\-/])-?\d+(?:,\d{3})*(?:\.\d+)?(?![\w\-/])")


@dataclass(frozen=True)
class Difference:
    """A number that is not what it is said to be, as both are written."""

    where: str
    said: str
    found: str
    tolerance: str


@dataclass(frozen=True)
class Verification:
    """What was checked, the numbers that are wrong, and where the data was not the one needed."""

    checked: list[str]
    differences: list[Difference]
    other_data: list[str]


def compare_results(said: EvaluationResult, found: EvaluationResult) -> list[Difference]:
    """The numbers of a results file against those of a new evaluation."""
    values, others = said.to_dict(), found.to_dict()
    kept = {name: value for name, value in values.items() if name not in NOT_COMPARED}
    moved = max(1.0, said.num_samples / 1000)
    return list(_compare(kept, others, "", moved, said.num_samples))


def compare_text(name: str, said: str, expected: str) -> list[Difference]:
    """The numbers of a card against those of the card that the results files make.

    Lines are matched by their words, in order; lines without numbers are not compared.
    """
    lines, others = _numbered(said), _numbered(expected)
    matcher = difflib.SequenceMatcher(
        None,
        [NUMBER.sub("#", line) for _, line in lines],
        [NUMBER.sub("#", line) for _, line in others],
        autojunk=False,
    )
    differences = []
    for operation, first, last, other_first, other_last in matcher.get_opcodes():
        if operation == "equal":
            pairs = zip(lines[first:last], others[other_first:other_last], strict=True)
            for (place, line), (_, other) in pairs:
                where = f"{name}, line {place}: {_words(line)}"
                numbers = zip(NUMBER.findall(line), NUMBER.findall(other), strict=True)
                differences += [
                    Difference(where, number, wanted, "0")
                    for number, wanted in numbers
                    if number != wanted
                ]
        else:
            for place, line in lines[first:last]:
                where = f"{name}, line {place}: {_words(line)}"
                differences.append(Difference(where, "this line", "no such line", "0"))
            for _, line in others[other_first:other_last]:
                where = f"{name}: {_words(line)}"
                differences.append(Difference(where, "no such line", "this line", "0"))
    return differences


def evaluate_again(folder: Path, result: EvaluationResult, data: str) -> EvaluationResult:
    """Evaluate a checkpoint as a result's own command says, on `data`.

    Raises:
        FileNotFoundError, ImportError: as `evaluate_checkpoint`.
        ValueError: a command that is not one of the evaluation's, or as `evaluate_checkpoint`.
    """
    try:
        words = shlex.split(result.command)[len(PROGRAM) :]
        options = vars(argument_parser().parse_args(words))
    except (SystemExit, ValueError) as error:
        raise ValueError(f"not a command of the evaluation: {result.command!r}") from error
    for name in ("checkpoint", "data", "device", "log", "output"):
        options.pop(name)
    options |= {"split": result.split, "flip": FLIP_AVERAGING in result.views}
    options |= {"compare_train": result.twins is not None}
    with tempfile.TemporaryDirectory() as elsewhere:
        return evaluate_checkpoint(folder, data, output=Path(elsewhere) / "again.json", **options)


def checkpoint_files(checkpoint: str) -> Path:
    """A folder, or that of a repository, with everything that publish.py pushed.

    Raises:
        FileNotFoundError: neither, or it cannot be read.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(checkpoint, allow_patterns=[*NEEDED, *RECORDS]))
        except (HFValidationError, HTTPError, OSError) as error:
            raise FileNotFoundError(
                f"must be a folder or a readable Hub id, got {checkpoint!r}: {error}"
            ) from error
    return folder


def verify(checkpoint: str, data: str, split: str | None = None) -> Verification:
    """Check weights, card and results, as far as `data` is what the results were made on.

    Args:
        checkpoint: folder or Hub id.
        data: folder or Hub id, of the name that the results give.
        split: the one to evaluate again; by default each that has a results file.

    Raises:
        FileNotFoundError, ImportError, ValueError: something that cannot be read or evaluated.
    """
    folder = checkpoint_files(checkpoint)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    results = {path: EvaluationResult.load(path) for path in sorted(folder.glob("results/*.json"))}
    checked = [f"{WEIGHTS}: SHA-256 {digest}"]
    differences = [
        Difference(f"{path.name}: model_sha256", result.model_sha256, digest, "0")
        for path, result in results.items()
        if result.model_sha256 != digest
    ]
    for name, expected in card_files(folder).items():
        text = (folder / name).read_text(encoding="utf-8")
        differences += compare_text(name, text, expected)
        count = sum(len(NUMBER.findall(line)) for _, line in _numbered(text))
        checked.append(f"{name}: {count} numbers against the results files")

    wanted = dataset_name(data).split("/")[-1]
    again = {
        path: result
        for path, result in results.items()
        if result.dataset.split("/")[-1] == wanted and split in (None, result.split)
    }
    if not again:
        there = ", ".join(f"{result.dataset} {result.split}" for result in results.values())
        raise ValueError(f"no results on {wanted} {split or ''} to evaluate again, got {there}")
    other_data = []
    for path, result in again.items():
        found = evaluate_again(folder, result, data)
        if found.data_sha256 != result.data_sha256:
            other_data.append(
                f"{path.name} was made on other data than {data}: on {_described(result)}, and "
                f"there are {_described(found)}, so its numbers are neither confirmed nor refuted"
            )
            continue
        differences += [
            Difference(f"{path.name}: {each.where}", each.said, each.found, each.tolerance)
            for each in compare_results(result, found)
        ]
        checked.append(f"{path.name}: {result.num_samples:,} pictures evaluated again")
    return Verification(checked, differences, other_data)


def table(differences: Sequence[Difference]) -> str:
    """Differences as a Markdown table."""
    rows = [
        f"| {each.where} | {each.said} | {each.found} | {each.tolerance} |" for each in differences
    ]
    return "\n".join(["| where | said | found | tolerance |", "| --- | --- | --- | --- |", *rows])


def _described(result: EvaluationResult) -> str:
    """The split's size and the start of its fingerprint."""
    return f"{result.num_samples:,} pictures with fingerprint {result.data_sha256[:12]}"


def _compare(
    said: Any, found: Any, where: str, moved: float, pictures: float
) -> Iterator[Difference]:
    """Differences below a place; `moved` pictures out of `pictures` may be decided otherwise.

    Where a result says nothing (None), nothing can be wrong; and so few pictures that all of them
    may move, to leave none, can have any score.
    """
    if isinstance(said, dict) and isinstance(found, dict):
        pictures = next((said[size] for size in SIZES if size in said), pictures)
        for name in said:
            smaller = pictures
            if name in MACRO and "per_class" in said:
                supports = [entry["support"] for entry in said["per_class"].values()]
                smaller = len(supports) * min(filter(None, supports))
            elif name == "accuracy_of_twins":
                smaller = said["num_twins"]
            elif name == "risk_coverage":
                smaller = pictures / FIRST_COVERAGE
            inside = f"{where}.{name}" if where else name
            yield from _compare(said[name], found.get(name), inside, moved, smaller)
    elif isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        for number, (each, other) in enumerate(zip(said, found, strict=True)):
            yield from _compare(each, other, f"{where}[{number}]", moved, pictures)
    elif said is not None:
        tolerance = _tolerance(where, said, moved, pictures)
        numbers = isinstance(said, int | float) and isinstance(found, int | float)
        near = abs(said - found) <= tolerance if numbers else found is None and tolerance >= 1
        if said != found and not near:
            yield Difference(where, str(said), str(found), f"{tolerance:.6g}")


def _tolerance(where: str, said: Any, moved: float, pictures: float) -> float:
    name = where.rsplit(".", 1)[-1]
    if name in EXACT or not isinstance(said, int | float):
        return 0.0
    if name in NATS:
        return NATS_TOLERANCE
    if isinstance(said, int):
        return moved if name == "count" or name.startswith("confusion_matrix") else 0.0
    return moved / pictures if pictures else 0.0


def _numbered(text: str) -> list[tuple[int, str]]:
    """Line number and text of each line that holds a number."""
    return [
        (place, line)
        for place, line in enumerate(text.splitlines(), start=1)
        if NUMBER.search(line)
    ]


def _words(line: str) -> str:
    """The start of a line, fit for a table."""
    text = line.strip().strip("|").split("|")[0].strip()
    return text if len(text) <= 60 else f"{text[:57]}..."


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python model_card/verify.py --help`."""
    parser = argparse.ArgumentParser(
        prog="python model_card/verify.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="folder or OWNER/NAME")
    parser.add_argument("--data", required=True, help="folder or Hub id of the data set")
    parser.add_argument("--split", help="evaluate this one again; default: each with results")
    options = parser.parse_args(arguments)
    try:
        found = verify(options.checkpoint, options.data, options.split)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(found.checked))
    if found.differences:
        print(f"\n{table(found.differences)}\n")
        print(f"{options.checkpoint}: {len(found.differences)} differences")
    if found.other_data:
        print("\n" + "\n".join(found.other_data))
        print(
            "\nFingerprints are of pixels as the checkpoint's processor makes them, labels and "
            "order.\nThis says nothing about the model: give --data the data behind the card"
        )
    if found.differences or found.other_data:
        return 1
    print(f"\n{options.checkpoint}: every number was found again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
