"""What is on record about the explanations of a checkpoint: which of them failed which check.

The record is what `python -m emosynthnet_hf.faithfulness` writes. It counts for the weights that it
was made with and for no others.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emosynthnet_hf.evaluation import WEIGHTS
from emosynthnet_hf.faithfulness import explanation_name

# In a checkpoint's own folder.
RECORD = "faithfulness.json"
NEEDED = ("model_sha256", "num_images", "dataset", "split", "failures")


@dataclass(frozen=True)
class Verdict:
    """How an explanation fared, and that as a sentence for the visitor."""

    state: Literal["passed", "failed", "unchecked"]
    sentence: str


@dataclass(frozen=True)
class Checks:
    """What a record says.

    Attributes:
        pictures: on which the checks were made, as words: "500 pictures of fer2013, validation".
        failures: explanation, as `explanation_name` has it -> what it fails, as sentences without a
            subject; none if it passed every check.
    """

    pictures: str
    failures: Mapping[str, tuple[str, ...]]


def read_checks(checkpoint: Path, elsewhere: Iterable[Path] = ()) -> Checks | None:
    """The record of a checkpoint's weights, or None if there is none.

    Args:
        checkpoint: its folder, where `faithfulness.json` is looked for first.
        elsewhere: further files that may be the record.

    Raises:
        ValueError: a file that is no record.
    """
    weights = hashlib.sha256((checkpoint / WEIGHTS).read_bytes()).hexdigest()
    for path in (checkpoint / RECORD, *elsewhere):
        if not path.is_file():
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} must be JSON: {error}") from error
        missing = [key for key in NEEDED if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(
                f"{path} must be written by emosynthnet_hf.faithfulness, missing: {missing}"
            )
        if record["model_sha256"] == weights:
            return Checks(
                f"{record['num_images']} pictures of {record['dataset']}, {record['split']}",
                {name: tuple(lines) for name, lines in record["failures"].items()},
            )
    return None


def verdict(checks: Checks | None, method: str, layer: str) -> Verdict:
    """What a record says of a method of `explain.METHODS` at a layer."""
    if checks is None:
        return Verdict("unchecked", "The methods were not checked for this checkpoint.")
    failed = checks.failures.get(explanation_name(method, layer))
    if failed is None:
        return Verdict("unchecked", "This method was not checked at this layer.")
    if not failed:
        return Verdict("passed", f"It passed every check, on {checks.pictures}.")
    return Verdict("failed", f"It {'; it '.join(failed)} ({checks.pictures}).")


__all__ = ["RECORD", "Checks", "Verdict", "read_checks", "verdict"]
