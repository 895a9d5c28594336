"""docs/losses.md says what the files say; differences and verdicts by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

import losses_table
from compare import spread
from emosynthnet_hf.configuration_emosynthnet import LOSSES, MARGINS
from losses_table import DOCS, difference, fill, parts, rank_correlation, read, verdict


def pair(name: str, accuracies: list[float], **others: Any) -> dict[str, Any]:
    """As compare.py writes it."""
    scores = {score: spread(accuracies) for score in ("accuracy", "loss", "macro_f1")}
    runs = [
        {"seed": seed, "curves": {"validation_accuracy": [0.1, accuracy]}}
        for seed, accuracy in enumerate(accuracies)
    ]
    return {"pair": name, "last_epoch": scores, "runs": runs, **others}


def comparison(*pairs: dict[str, Any]) -> dict[str, Any]:
    return {
        "budget": {"epochs": 2.0, "steps": 10, "minutes": 1.0},
        "data": {
            "label_names": ["often", "rare"],
            "train": {"images": 1100, "images_by_class": [1000, 100]},
            "validation": {"images": 400},
        },
        "pairs": list(pairs),
    }


def test_the_page_is_what_the_files_say() -> None:
    page = (DOCS / "losses.md").read_text(encoding="utf-8")
    assert fill(page, parts(*read(DOCS))) == page


def test_every_margin_and_loss_has_a_row() -> None:
    assert tuple(losses_table.MARGINS) == MARGINS
    assert tuple(losses_table.LOSSES) == LOSSES


def test_difference_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, half-width 4.303 / sqrt(3).
    mean, half, seeds = difference({0: 51, 1: 53, 2: 55}, {0: 50, 1: 51, 2: 52, 3: 9}, 400)
    assert (mean, seeds) == (2, 3)
    assert half == pytest.approx(4.303 / 3**0.5)
    # One seed, 400 pictures: sqrt(0.5 * 0.5 / 400 + 0.4 * 0.6 / 400) = 3.5 points.
    mean, half, seeds = difference({0: 50}, {0: 40}, 400)
    assert (mean, seeds) == (10, 1)
    assert half == pytest.approx(1.96 * 3.5)
    with pytest.raises(ValueError, match="from 1 to 9 common seeds needed, got 0"):
        difference({0: 50}, {1: 50}, 400)


def test_students_t() -> None:
    for freedom, value in losses_table.STUDENT_T.items():
        assert value == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((2.0, 1.0, 3), "seen"),
        ((-2.0, 1.0, 3), "the opposite is seen"),
        ((0.9, 1.0, 3), "cannot be told"),
        ((2.0, 1.0, 1), "seen with one seed, whose luck is not known"),
        ((0.5, 1.0, 3, 2.0), "cannot be told; 2.00 points are not within the interval"),
        ((0.5, 1.6, 3, 2.0), "cannot be told; 2.00 points are within the interval"),
    ],
)
def test_verdicts(arguments: tuple[Any, ...], said: str) -> None:
    assert verdict(*arguments) == said


def test_rank_correlation() -> None:
    first, second = [3.0, 10.0, 4.0, 7.0], [0.3, 0.2, 0.9, 0.1]
    want = stats.spearmanr(first, second).statistic
    assert rank_correlation(first, second) == pytest.approx(want)


def test_parts_say_what_the_comparisons_hold() -> None:
    margins = {"margin_by_class": {"often": spread([1.5, 1.7]), "rare": spread([0.5, 0.7])}}
    comparisons = {
        "fer2013": comparison(
            pair("none/ce", [0.50, 0.52]),
            pair("mam/sce", [0.53, 0.55], **margins),
            pair("mam:differentiable=true/sce", [0.40]),
        ),
        "cifar10": comparison(pair("none/ce", [0.700]), pair("mam/sce", [0.705])),
    }
    ratios = {f"margin {name}": 1.23 for name in MARGINS} | {
        f"loss {name}": 4.56 for name in LOSSES
    }
    got = parts({"shapes": {"4 x 7": {"ratio": ratios}}}, comparisons)
    row = (
        "| `mam` | z_y - M, M = log(largest centred logit + 0.2) in [0, 4] | the thesis's: a "
        "margin that grows with a sample's confidence | 1.2 | FER-2013 54.0 % (mam/sce); "
        "FER-2013 40.0 % (mam:differentiable=true/sce); CIFAR-10 70.5 % (mam/sce) |"
    )
    assert row in got["margins"]
    assert "| cost, 4 × 7 |" in got["losses"]
    assert "| 4.6 | not measured |" in got["losses"]
    # Both seeds gain 3 points exactly.
    assert "| mam/sce | 2 | 54.00 ± 1.41 % |" in got["comparisons"]
    assert "| +3.00 ± 0.00 |" in got["comparisons"]
    assert "### MNIST digits\n\nNot measured." in got["comparisons"]
    assert "mam/sce - none/ce on FER-2013 | +3.00 ± 0.00 | 2 | seen |" in got["claims"]
    assert (
        "| 2.09 points above cross-entropy (Table 4.1) | mam/sce - none/ce on CIFAR-10 "
        "| +0.50 ± 6.34 | 1 | cannot be told; 2.09 points are within the interval |"
        in got["claims"]
    )
    assert "mam/sce - am/ce on FER-2013 |  |  | not measured |" in got["claims"]
    rows = got["margins by class"].splitlines()
    assert rows[2:] == [
        "| rare | 100 | 0.60 ± 0.14 |",
        "| often | 1,000 | 1.60 ± 0.14 |",
        "| rank correlation with the pictures | | +1.00 |",
    ]


def test_what_is_not_there_is_not_measured(tmp_path: Path) -> None:
    costs, comparisons = read(tmp_path)
    assert (costs, comparisons) == ({}, {})
    assert all("ot measured" in text for text in parts(costs, comparisons).values())
    (tmp_path / "comparisons").mkdir()
    (tmp_path / "comparisons" / "mnist.json").write_text(json.dumps(comparison()))
    assert list(read(tmp_path)[1]) == ["mnist"]


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page must hold <!-- claims: written by"):
        fill("# Margins and losses", {"claims": "| |"})
