"""Pictures of a card: drawn from the results, without a display."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from emosynthnet_hf.evaluation import SINGLE_CROP, EvaluationResult

# For readers who tell few colours apart: dark on light, and every cell with its number.
COLOURS = "Blues"


def confusion_matrix(result: EvaluationResult) -> Figure:
    """Shares of each true class by predicted class, single crop."""
    names = result.label_names
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    for row, counts in enumerate(result.views[SINGLE_CROP].confusion_matrix):
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        # One row of the picture: (1, K)
        axes.imshow(
            [shares],
            cmap=COLOURS,
            vmin=0,
            vmax=1,
            extent=(-0.5, len(names) - 0.5, row + 0.5, row - 0.5),
        )
        for column, share in enumerate(shares):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=colour)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), names, rotation=45)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=f"{result.dataset}, {result.split}")
    return figure


def reliability(result: EvaluationResult) -> Figure:
    """Accuracy against confidence by bin, with the number of pictures below, single crop."""
    bins = result.views[SINGLE_CROP].reliability_bins
    centres = [(each.lower + each.upper) / 2 for each in bins]
    width = bins[0].upper - bins[0].lower
    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(
        centres, [each.accuracy or 0.0 for each in bins], width, color="#4878a8", edgecolor="white"
    )
    upper.plot([0, 1], [0, 1], color="black", linestyle="--", label="as accurate as confident")
    upper.legend(loc="upper left")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(f"{result.dataset}, {result.split}")
    lower.bar(centres, [each.count for each in bins], width, color="#999999", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="pictures")
    return figure


def risk_coverage(result: EvaluationResult) -> Figure:
    """Error on the surest pictures against how many are answered, a line a view."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (name, view), colour, style in zip(
        result.views.items(), ("#1f4e79", "#c05a1c"), ("-", "--"), strict=False
    ):
        coverage, risk = zip(*view.risk_coverage, strict=True)
        label = f"{name.replace('_', ' ')}, area {view.risk_coverage_area:.3f}"
        axes.plot(coverage, risk, color=colour, linestyle=style, marker=".", label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, None), xlabel="pictures answered, the surest first")
    axes.set(ylabel="error on them", title=f"{result.dataset}, {result.split}")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)
    return figure


def draw(result: EvaluationResult, folder: Path) -> None:
    """Write `confusion-matrix.png`, `reliability.png` and `risk-coverage.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in (
        ("confusion-matrix", confusion_matrix(result)),
        ("reliability", reliability(result)),
        ("risk-coverage", risk_coverage(result)),
    ):
        figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


__all__ = ["confusion_matrix", "draw", "reliability", "risk_coverage"]
