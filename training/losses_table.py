"""docs/losses.md from what was measured: python training/losses_table.py

Fills the marked parts of the page from docs/benchmarks/losses.json (what each costs) and
docs/comparisons/*.json (what `compare.py` found); what is not there is "not measured".
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).resolve().parent.parent / "docs"
DATA_SETS = {"fer2013": "FER-2013", "cifar10": "CIFAR-10", "mnist": "MNIST digits"}
BASELINE = "none/ce"
NOT_MEASURED = "not measured"
# Formula and purpose; z are logits, y the label, p probabilities, t targets, theta_y the angle
# between features and the label's weights, s the scale.
MARGINS = {
    "none": ("softmax(z)", "the baseline"),
    "mam": (
        "z_y - M, M = log(largest centred logit + 0.2) in [0, 4]",
        "the thesis's: a margin that grows with a sample's confidence",
    ),
    "mam_all": (
        "M from each class's logit in its own ratio, divided by the ratios' sum",
        "the thesis's Figure 4.1 with that M; needs no label",
    ),
    "mam_figure": (
        "the same with exp M = mean(exp z) + log10(clipped)",
        "the figure to the letter",
    ),
    "mam_verbatim": (
        "z_y - mean(z) - log(largest z + 0.2), differentiated",
        "to show that eq. 4.14 to 4.16 as printed collapse",
    ),
    "sm": ("z_y - m", "a fixed margin without normalisation"),
    "l": ("norm of w_y and x times psi(theta_y), psi from cos(m theta)", "L-Softmax; annealed"),
    "a": ("norm of x times psi(theta_y), unit weights", "A-Softmax, SphereFace; annealed"),
    "am": ("s (cos(theta_y) - m)", "AM-Softmax, CosFace: open sets, verification"),
    "double_am": ("s (cos(theta_y) - m) against s (cos(theta_j) + m)", "an alias: am with 2m"),
    "aam": ("s cos(theta_y + m)", "AAM-Softmax, ArcFace: open sets, verification"),
    "dam": (
        "s (cos(theta_y) - m exp(1 - cos(theta_y)) / lambda)",
        "am with more for samples far from their class",
    ),
}
LOSSES = {
    "ce": ("-log p_y", "the baseline"),
    "sce": (
        "0.5 CE + 0.5 alpha w CE / ln 10, alpha = mean (t - p)^2, w = length of 1 - t - p",
        "the thesis's modified cross-entropy",
    ),
    "mse": ("mean_k (t_k - p_k)^2", "bounded; slow where p_y is near 0"),
    "focal": ("-(1 - p_y)^gamma log p_y", "less weight for easy samples"),
    "gce": ("(1 - p_y^q) / q", "wrong labels"),
    "truncated_gce": (
        "the same, constant where p_y is below k",
        "wrong labels, from weights that have been trained",
    ),
    "real_world_ce": (
        "-fn_y log p_y - sum_j fp_yj log(1 - p_j)",
        "mistakes of known, unequal cost",
    ),
    "mixed_ce": ("-(1 - a) log p_y - a log max p, a grows", "labels that are not the only answer"),
    "active_passive": ("NCE + RCE", "wrong labels"),
    "dwb": ("-w_y^(1 - p_y) log p_y + sum_k p_k (1 - p_k)", "classes of unequal size"),
    "symmetric_ce": ("alpha CE(t, p) + beta CE(p, t)", "wrong labels"),
    "sample_ratio": ("the same, of the samples with the smallest loss", "a known share of them"),
}
# Data set, first pair, second pair, what the thesis states of the first, and by how many points.
CLAIMS: tuple[tuple[str, str, str, str, float | None], ...] = (
    ("cifar10", "mam/sce", "none/ce", "above cross-entropy (Table 4.1)", 93.63 - 91.54),
    ("cifar10", "mam/sce", "none/mse", "above MSE (Table 4.1)", 93.63 - 89.69),
    ("mnist", "mam/sce", "none/ce", "above cross-entropy (Figure 4.3, All-CNN)", None),
    ("fer2013", "mam/sce", "none/ce", "above cross-entropy", None),
    ("fer2013", "mam/sce", "am/ce", "above AM-Softmax (Figure 4.2, on CIFAR-10)", None),
    ("fer2013", "mam/sce", "sm/ce", "above SM-Softmax (Figure 4.2, on CIFAR-10)", None),
    ("fer2013", "mam/sce", "a/ce", "above L- or A-Softmax (Figure 4.2, on CIFAR-10)", None),
)
# Student's t, two-sided 95 %, by degrees of freedom.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
NORMAL = 1.96


def accuracies(pair: Mapping[str, Any]) -> dict[int, float]:
    """Last epoch's validation accuracy in percent, by seed."""
    return {run["seed"]: 100 * run["curves"]["validation_accuracy"][-1] for run in pair["runs"]}


def difference(
    first: Mapping[int, float], second: Mapping[int, float], images: int
) -> tuple[float, float, int]:
    """Mean difference in points over the seeds that both have, how far it may be off (95 %), and
    the number of seeds.

    With several seeds it is Student's interval of the paired differences. With one, that of two
    accuracies on `images` pictures: it leaves out by how much seeds differ, so it is too narrow.

    Raises:
        ValueError: no seed in common, or more than nine.
    """
    seeds = sorted(set(first) & set(second))
    if not 1 <= len(seeds) <= len(STUDENT_T) + 1:
        raise ValueError(f"from 1 to {len(STUDENT_T) + 1} common seeds needed, got {len(seeds)}")
    differences = [first[seed] - second[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    if len(seeds) > 1:
        deviation = statistics.stdev(differences)
        return mean, STUDENT_T[len(seeds) - 1] * deviation / len(seeds) ** 0.5, len(seeds)
    shares = (first[seeds[0]] / 100, second[seeds[0]] / 100)
    error = 100 * sum(share * (1 - share) / images for share in shares) ** 0.5
    return mean, NORMAL * error, 1


def verdict(mean: float, half: float, seeds: int, stated: float | None = None) -> str:
    """What a difference says of "the first is above the second, by `stated` points"."""
    if abs(mean) <= half:
        said = "cannot be told"
    else:
        said = "seen" if mean > 0 else "the opposite is seen"
        if seeds == 1:
            said += " with one seed, whose luck is not known"
    if stated is not None:
        inside = abs(mean - stated) <= half
        said += f"; {stated:.2f} points {'are' if inside else 'are not'} within the interval"
    return said


def read(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The costs, and the comparisons by name of the data set: those that are there."""
    costs = folder / "benchmarks" / "losses.json"
    files = {name: folder / "comparisons" / f"{name}.json" for name in DATA_SETS}
    return (
        json.loads(costs.read_text(encoding="utf-8")) if costs.is_file() else {},
        {
            name: json.loads(path.read_text(encoding="utf-8"))
            for name, path in files.items()
            if path.is_file()
        },
    )


def pairs_of(comparison: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {pair["pair"]: pair for pair in comparison["pairs"]}


def catalogue(
    kind: str, costs: Mapping[str, Any], comparisons: Mapping[str, Mapping[str, Any]]
) -> str:
    """All margins or all losses: formula, purpose, cost and validation accuracies."""
    shapes = costs.get("shapes", {})
    columns = [f"cost, {name.replace('x', '×')}" for name in shapes] or ["cost"]
    lines = [
        f"| {kind} | formula | what for | {' | '.join(columns)} | validation accuracy |",
        "| --- | --- | --- |" + " --- |" * (len(columns) + 1),
    ]
    place = {"margin": 0, "loss": 1}[kind]
    for name, (formula, purpose) in {"margin": MARGINS, "loss": LOSSES}[kind].items():
        ratios = [f"{shape['ratio'][f'{kind} {name}']:.1f}" for shape in shapes.values()]
        measured = []
        for data, comparison in comparisons.items():
            for pair, values in pairs_of(comparison).items():
                parts = pair.split("/")
                if parts[place].split(":")[0] == name:
                    mean = 100 * values["last_epoch"]["accuracy"]["mean"]
                    measured.append(f"{DATA_SETS[data]} {mean:.1f} % ({pair})")
        cells = [f"`{name}`", formula, purpose, *(ratios or [NOT_MEASURED])]
        lines.append(f"| {' | '.join([*cells, '; '.join(measured) or NOT_MEASURED])} |")
    return "\n".join(lines)


def comparison_table(name: str, comparison: Mapping[str, Any] | None) -> str:
    """Budget, and a row a pair."""
    if comparison is None:
        return f"### {DATA_SETS[name]}\n\n{NOT_MEASURED.capitalize()}."
    budget, data = comparison["budget"], comparison["data"]
    images = data["validation"]["images"]
    pairs = pairs_of(comparison)
    lines = [
        f"### {DATA_SETS[name]}",
        "",
        f"{budget['epochs']:g} epochs of {data['train']['images']:,} pictures, "
        f"{budget['steps']:,} steps; accuracy on {images:,} validation pictures after the last "
        "epoch. ± is the standard deviation over the seeds, in the last column the 95 % interval.",
        "",
        f"| margin/loss | seeds | accuracy | macro F1 | cross-entropy | points above {BASELINE} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for pair, values in pairs.items():
        last = values["last_epoch"]
        gain = ""
        if pair != BASELINE and BASELINE in pairs:
            mean, half, _ = difference(accuracies(values), accuracies(pairs[BASELINE]), images)
            gain = f"{mean:+.2f} ± {half:.2f}"
        lines.append(
            f"| {pair} | {len(values['runs'])} | {_spread(last['accuracy'], 100, 2, ' %')} "
            f"| {_spread(last['macro_f1'], 100, 2, ' %')} | {_spread(last['loss'], 1, 3, '')} "
            f"| {gain} |"
        )
    return "\n".join(lines)


def claims_table(comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """What the thesis states of MAM with SCE, and what is seen of it."""
    lines = [
        "| the thesis states that MAM with SCE is | measured here | points, 95 % | seeds | it is |",
        "| --- | --- | --- | --- | --- |",
    ]
    for data, first, second, statement, stated in CLAIMS:
        pairs = pairs_of(comparisons[data]) if data in comparisons else {}
        points = "" if stated is None else f"{stated:.2f} points "
        cells = [points + statement, f"{first} - {second} on {DATA_SETS[data]}"]
        if first in pairs and second in pairs:
            mean, half, seeds = difference(
                accuracies(pairs[first]),
                accuracies(pairs[second]),
                comparisons[data]["data"]["validation"]["images"],
            )
            cells += [f"{mean:+.2f} ± {half:.2f}", str(seeds), verdict(mean, half, seeds, stated)]
        else:
            cells += ["", "", NOT_MEASURED]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def margins_table(comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean margin by class, from rare to frequent, where classes differ in size."""
    parts = []
    for name, comparison in comparisons.items():
        counts = comparison["data"]["train"]["images_by_class"]
        pairs = [pair for pair in comparison["pairs"] if "margin_by_class" in pair]
        if len(set(counts)) == 1 or not pairs:
            continue
        labels = comparison["data"]["label_names"]
        order = [
            int(number) for number in np.argsort(counts) if labels[number] in _margins(pairs[0])
        ]
        lines = [
            f"| {DATA_SETS[name]} | training pictures "
            f"| {' | '.join(pair['pair'] for pair in pairs)} |",
            "| --- | --- |" + " --- |" * len(pairs),
        ]
        for number in order:
            cells = [_spread(_margins(pair)[labels[number]], 1, 2, "") for pair in pairs]
            lines.append(f"| {labels[number]} | {counts[number]:,} | {' | '.join(cells)} |")
        ranks = [
            rank_correlation(
                [counts[number] for number in order],
                [_margins(pair)[labels[number]]["mean"] for number in order],
            )
            for pair in pairs
        ]
        cells = [f"{rank:+.2f}" for rank in ranks]
        lines.append(f"| rank correlation with the pictures | | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or f"{NOT_MEASURED.capitalize()}."


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def parts(costs: Mapping[str, Any], comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The page's marked parts by name."""
    return {
        "margins": catalogue("margin", costs, comparisons),
        "losses": catalogue("loss", costs, comparisons),
        "claims": claims_table(comparisons),
        "comparisons": "\n\n".join(
            comparison_table(name, comparisons.get(name)) for name in DATA_SETS
        ),
        "margins by class": margins_table(comparisons),
    }


def fill(page: str, written: Mapping[str, str]) -> str:
    """The page with its marked parts replaced.

    Raises:
        ValueError: a part has no marks.
    """
    for name, text in written.items():
        start, end = f"<!-- {name}: written by training/losses_table.py -->", "<!-- end -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page must hold {start} and after it {end}")
        page = f"{before}{start}\n{text}\n{end}{after}"
    return page


def main() -> int:
    """Command line: `python training/losses_table.py`."""
    page = DOCS / "losses.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), parts(*read(DOCS))), encoding="utf-8")
    return 0


def _margins(pair: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = pair["margin_by_class"]
    return values


def _spread(values: Mapping[str, Any], factor: float, digits: int, unit: str) -> str:
    text = f"{factor * values['mean']:.{digits}f}"
    if values["standard_deviation"] is not None:
        text += f" ± {factor * values['standard_deviation']:.{digits}f}"
    return text + unit


if __name__ == "__main__":
    sys.exit(main())
