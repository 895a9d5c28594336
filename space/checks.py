"""What is on record about the explanations of a checkpoint: which of them failed which check.

The record is what `python -m emosynthnet_hf.faithfulness` writes into the checkpoint's folder. It
counts for the weights that it was made with and for no others.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emosynthnet_hf.evaluation import FAITHFULNESS, WEIGHTS
from emosynthnet_hf.faithfulness import explanation_name

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


def read_checks(checkpoint: Path) -> Checks | None:
    """The record in a checkpoint's folder, or None if there is none of its weights.

    Raises:
        ValueError: a file that is no record.
    """
    path = checkpoint / FAITHFULNESS
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    missing = [key for key in NEEDED if not isinstance(record, dict) or key not in record]
    if missing:
        raise ValueError(
            f"{path} must be written by emosynthnet_hf.faithfulness, missing: {missing}"
        )
    weights = hashlib.sha256((checkpoint / WEIGHTS).read_bytes()).hexdigest()
    if record["model_sha256"] != weights:
        return None
    return Checks(
        f"{record['num_images']} pictures of {record['dataset']}, {record['split']}",
        {name: tuple(lines) for name, lines in record["failures"].items()},
    )


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


__all__ = ["Checks", "Verdict", "read_checks", "verdict"]
