"""One look for every figure: matplotlib, loaded only when a figure is drawn.

Colours are Okabe and Ito's (2008), which people with any kind of colour vision can tell apart.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# From white to dark blue, in even steps of lightness.
SHADES = "Blues"
DOTS_PER_INCH = 150


def new_figure(
    width_inches: float, height_inches: float, num_axes: int = 1
) -> tuple["Figure", list[Any]]:
    """A figure with axes side by side, without any window.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need: pip install "emosynthnet-hf[train]"') from error
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    axes = [figure.add_subplot(1, num_axes, number + 1) for number in range(num_axes)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: "Figure", path: Path) -> None:
    """Write as PNG without a date, so that the same numbers give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def file_name(*parts: str) -> str:
    """Parts joined by a dash, without an ending; a Hub id's slash is written as two dashes."""
    return "-".join(part.replace("/", "--") for part in parts)


__all__ = [
    "COLOURS",
    "DOTS_PER_INCH",
    "MARKERS",
    "SHADES",
    "file_name",
    "new_figure",
    "save_figure",
]
