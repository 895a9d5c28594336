"""The laboratory: the margins and losses that the thesis compares with or derives from.

Importing this package, as `import emosynthnet_hf` does, makes them selectable by name in a
configuration's `margin` and `loss`. docs/losses.md helps to choose.
"""

from ..margin_emosynthnet import (
    LOSS_FUNCTIONS,
    MARGIN_FUNCTIONS,
    TAKE_CLASSES,
    TARGET_ONLY_LOSSES,
)
from .active_passive import active_passive
from .additive_angle import additive_angle
from .additive_cosine import additive_cosine, double_additive_cosine
from .dynamic_additive import dynamic_additive
from .dynamically_weighted import dynamically_weighted
from .focal import focal
from .generalized import generalized, truncated_generalized
from .mean_squared import mean_squared
from .mixed import mixed
from .multiplicative_angle import multiplicative_angle
from .progress import ProgressCallback
from .real_world import real_world
from .soft_margin import soft_margin
from .symmetric import sample_ratio, symmetric

MARGIN_FUNCTIONS.update(
    {
        "sm": soft_margin,
        "l": multiplicative_angle,
        "a": multiplicative_angle,
        "am": additive_cosine,
        "double_am": double_additive_cosine,
        "aam": additive_angle,
        "dam": dynamic_additive,
    }
)
LOSS_FUNCTIONS.update(
    {
        "mse": mean_squared,
        "focal": focal,
        "gce": generalized,
        "truncated_gce": truncated_generalized,
        "real_world_ce": real_world,
        "mixed_ce": mixed,
        "active_passive": active_passive,
        "dwb": dynamically_weighted,
        "symmetric_ce": symmetric,
        "sample_ratio": sample_ratio,
    }
)
TAKE_CLASSES.update({"sm", "l", "a", "am", "double_am", "aam", "dam"})
TAKE_CLASSES.update({"mse", "mixed_ce", "active_passive", "dwb", "real_world_ce"})
TARGET_ONLY_LOSSES.update({"focal", "gce", "truncated_gce", "symmetric_ce", "sample_ratio"})

__all__ = [
    "ProgressCallback",
    "active_passive",
    "additive_angle",
    "additive_cosine",
    "double_additive_cosine",
    "dynamic_additive",
    "dynamically_weighted",
    "focal",
    "generalized",
    "mean_squared",
    "mixed",
    "multiplicative_angle",
    "real_world",
    "sample_ratio",
    "soft_margin",
    "symmetric",
    "truncated_generalized",
]
