"""Configuration of EmoSynthNet: every size and every open point of the thesis, as typed fields."""

import math
from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# The first five margins and two losses are in margin_emosynthnet.py; the others are the
# laboratory's, in the package's `losses/`.
MARGINS = (
    *("none", "mam", "mam_all", "mam_figure", "mam_verbatim"),
    *("sm", "l", "a", "am", "double_am", "aam", "dam"),
)
LOSSES = (
    *("ce", "sce"),
    *("mse", "focal", "gce", "truncated_gce", "real_world_ce", "mixed_ce"),
    *("active_passive", "dwb", "symmetric_ce", "sample_ratio"),
)

# What the last dense layer computes of features x and weights w, theta the angle between them:
# w x + b, w x, |x| cos(theta), or logit_scale * cos(theta).
CLASSIFIERS = ("linear", "unbiased", "unit_weights", "cosine")
# Angular margins work on one of them alone; all other margins, on any.
CLASSIFIER_OF_MARGIN = {
    "l": "unbiased",
    "a": "unit_weights",
    "am": "cosine",
    "double_am": "cosine",
    "aam": "cosine",
    "dam": "cosine",
}

# Convolutions of blocks 1 to 4, and the two identity skips of blocks 1 and 3 (section 3.2.3).
ANALYSIS_DEPTHS = (4, 4, 4, 3)
SKIP_BLOCKS = (0, 2)
# Convolutions of the three sub-branches of an auxiliary module (section 3.2.2).
SIDE_DEPTHS = (3, 1, 3)

_BASE_ANALYSIS_WIDTHS = ((32, 64, 64, 64), (128,) * 4, (256,) * 4, (512,) * 3)
_BASE_SYNTHESIS_WIDTHS = (512, 256)
_BASE_SIDE_WIDTHS = ((64, 96, 96), (64,), (128, 192, 192))

# Fraction of the thesis's widths; the dense layers (128, 64) are the same in all.
PRESETS = {"base": 1.0, "small": 0.5, "quarter": 0.25}


def _scaled(widths: tuple[tuple[int, ...], ...], fraction: float) -> list[list[int]]:
    return [[int(width * fraction) for width in group] for group in widths]


@strict
class EmoSynthNetConfig(PreTrainedConfig):
    r"""
    Configuration of an EmoSynthNet (Nabaei, Concordia University, 2024, sections 3.2.1 to 3.2.3 and
    4.2).

    The defaults are the thesis's network (preset `base`) for 48 x 48 grey faces and seven classes.
    See [`EmoSynthNetConfig.from_preset`] for the smaller ones.

    Args:
        image_size (`int`, defaults to 48):
            Side `m` of the square input in pixels: a multiple of 16, at least 32.
        num_channels (`int`, defaults to 1):
            1 (grey) or 3 (RGB).
        analysis_widths (`list[list[int]]`):
            Output channels of each convolution of blocks 1 to 4: lists of 4, 4, 4 and 3 widths. In
            blocks 1 and 3 an identity skip joins convolutions 2 and 4, whose widths must be equal.
        synthesis_widths (`list[int]`, defaults to `[512, 256]`):
            Filters of the two transposed convolutions, blocks 5a and 5b.
        side_widths (`list[list[int]]`, defaults to `[[64, 96, 96], [64], [128, 192, 192]]`):
            Output channels of each convolution in the three sub-branches of an auxiliary module.
        dense_widths (`list[int]`, defaults to `[128, 64]`):
            Units of the two hidden dense layers; the last is the size of the embedding.
        norm_first (`bool`, defaults to `False`):
            Normalise before the activation instead of after it. The thesis says both; ELU then BN
            is its majority.
        side_norm (`bool`, defaults to `False`):
            Batch normalisation after each auxiliary module (the thesis has none).
        pooling_dropout (`float`, defaults to 0.0):
            Dropout rate after each of the four average poolings of the main branch, in [0, 1).
        dense_dropout (`float`, defaults to 0.0):
            Dropout rate before each hidden dense layer, in [0, 1).
        auxiliary_loss_weight (`float`, defaults to 0.0):
            Above 0, a linear head on the spatial mean of the side branch's pooled output adds its
            loss, times this weight, in training (section 3.2.2; GoogLeNet used 0.3).
        margin (`str`, defaults to `"mam"`):
            How logits and targets become probabilities in training: one of `MARGINS`, explained in
            docs/losses.md. Those but `none` and the four of `mam` need the installed package.
        margin_kwargs (`dict[str, Any]`):
            Keyword arguments of that margin function, e.g. `{"epsilon": 0.2, "maximum": 4.0}`.
        learnable_epsilon (`bool`, defaults to `False`):
            Make the `epsilon` of a MAM margin a parameter, kept positive by softplus. The loss
            falls as it falls, so it drifts down: for experiments only.
        loss (`str`, defaults to `"sce"`):
            How probabilities are scored in training: one of `LOSSES`, explained in docs/losses.md.
            Those but `ce` and `sce` need the installed package.
        loss_kwargs (`dict[str, Any]`):
            Keyword arguments of that loss function, e.g. `{"ce_weight": 0.5, "proposed_weight":
            0.5}`.
        classifier (`str`, *optional*):
            The last dense layer: `linear`, `unbiased` (without bias), `unit_weights` (weights
            normalised, no bias) or `cosine` (weights and features normalised, no bias, times
            `logit_scale`). By default the one that the margin needs: `unbiased` for `l`,
            `unit_weights` for `a`, `cosine` for `am`, `double_am`, `aam` and `dam`, else `linear`.
        logit_scale (`float`, defaults to 30.0):
            The scale s of a `cosine` classifier (30 in AM-Softmax, Wang et al., 2018).
        label_smoothing (`float`, defaults to 0.0):
            Share of the target spread evenly over all classes, in [0, 1).
        class_weights (`list[float]`, *optional*):
            One non-negative weight a class (section 3.3.2), with any loss; not all zero. The model
            checks their number, so that a checkpoint can be fine-tuned with another `num_labels`
            and other weights.
        temperature (`float`, defaults to 1.0):
            Divides the logits in evaluation mode (Guo et al., 2017); fitted on validation data.
        num_labels, id2label, label2id:
            As in every transformers model; 7 classes by default, at least 2.

    Raises:
        StrictDataclassFieldValidationError: a field of the wrong type.
        StrictDataclassClassValidationError: a value out of range; the message says what was got and
            what is allowed.
    """

    model_type = "emosynthnet"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["pooler_output", "hidden_states"]

    image_size: int = 48
    num_channels: int = 1
    analysis_widths: list[list[int]] = field(
        default_factory=lambda: _scaled(_BASE_ANALYSIS_WIDTHS, 1.0)
    )
    synthesis_widths: list[int] = field(default_factory=lambda: list(_BASE_SYNTHESIS_WIDTHS))
    side_widths: list[list[int]] = field(default_factory=lambda: _scaled(_BASE_SIDE_WIDTHS, 1.0))
    dense_widths: list[int] = field(default_factory=lambda: [128, 64])
    norm_first: bool = False
    side_norm: bool = False
    pooling_dropout: float | int = 0.0
    dense_dropout: float | int = 0.0
    auxiliary_loss_weight: float | int = 0.0
    margin: str = "mam"
    margin_kwargs: dict[str, Any] = field(default_factory=dict)
    learnable_epsilon: bool = False
    loss: str = "sce"
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    classifier: str | None = None
    logit_scale: float | int = 30.0
    label_smoothing: float | int = 0.0
    class_weights: list[float | int] | None = None
    temperature: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.id2label is None:
            kwargs.setdefault("num_labels", 7)
        if self.classifier is None:
            self.classifier = CLASSIFIER_OF_MARGIN.get(self.margin, "linear")
        super().__post_init__(**kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        # The base class leaves out its own default, two unnamed classes, which is not ours.
        names = {"id2label": self.id2label, "label2id": self.label2id}
        return super().to_diff_dict() | names

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "EmoSynthNetConfig":
        """The thesis's widths (`base`), half (`small`) or a quarter of them (`quarter`), with any
        field overridden.

        Raises:
            ValueError: an unknown preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        fraction = PRESETS[name]
        widths: dict[str, Any] = {
            "analysis_widths": _scaled(_BASE_ANALYSIS_WIDTHS, fraction),
            "synthesis_widths": [int(width * fraction) for width in _BASE_SYNTHESIS_WIDTHS],
            "side_widths": _scaled(_BASE_SIDE_WIDTHS, fraction),
        }
        return cls(**(widths | overrides))

    def validate_image(self) -> None:
        if self.image_size < 32 or self.image_size % 16:
            raise ValueError(
                f"image_size must be a multiple of 16, at least 32, got {self.image_size}"
            )
        if self.num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 1 (grey) or 3 (RGB), got {self.num_channels}")

    def validate_widths(self) -> None:
        _check_groups("analysis_widths", self.analysis_widths, ANALYSIS_DEPTHS)
        _check_groups("side_widths", self.side_widths, SIDE_DEPTHS)
        _check_groups("synthesis_widths", [self.synthesis_widths], (2,))
        _check_groups("dense_widths", [self.dense_widths], (2,))
        for block in SKIP_BLOCKS:
            second, fourth = self.analysis_widths[block][1], self.analysis_widths[block][3]
            if second != fourth:
                raise ValueError(
                    f"analysis_widths: an identity skip joins convolutions 2 and 4 of block "
                    f"{block + 1}, whose widths must be equal, got {second} and {fourth}"
                )

    def validate_rates(self) -> None:
        for name in ("pooling_dropout", "dense_dropout", "label_smoothing"):
            rate = getattr(self, name)
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {rate}")
        if not (self.auxiliary_loss_weight >= 0.0 and math.isfinite(self.auxiliary_loss_weight)):
            raise ValueError(
                f"auxiliary_loss_weight must be finite and at least 0, "
                f"got {self.auxiliary_loss_weight}"
            )
        if not (self.temperature > 0.0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be finite and above 0, got {self.temperature}")

    def validate_loss(self) -> None:
        if self.margin not in MARGINS:
            raise ValueError(f"margin must be one of {', '.join(MARGINS)}, got {self.margin!r}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.learnable_epsilon and not self.margin.startswith("mam"):
            raise ValueError(
                f"learnable_epsilon needs a margin with an epsilon, got margin {self.margin!r}"
            )

    def validate_classifier(self) -> None:
        if self.classifier not in CLASSIFIERS:
            raise ValueError(
                f"classifier must be one of {', '.join(CLASSIFIERS)}, got {self.classifier!r}"
            )
        needed = CLASSIFIER_OF_MARGIN.get(self.margin, self.classifier)
        if self.classifier != needed:
            raise ValueError(
                f"margin {self.margin!r} needs classifier {needed!r}, got {self.classifier!r}"
            )
        if not (self.logit_scale > 0.0 and math.isfinite(self.logit_scale)):
            raise ValueError(f"logit_scale must be finite and above 0, got {self.logit_scale}")

    def validate_classes(self) -> None:
        if self.num_labels is None or self.num_labels < 2:
            raise ValueError(f"num_labels must be at least 2, got {self.num_labels}")
        weights = self.class_weights
        if weights is not None and not (
            all(math.isfinite(weight) and weight >= 0.0 for weight in weights) and any(weights)
        ):
            raise ValueError(
                f"class_weights must be finite, at least 0 and not all 0, got {weights}"
            )


def _check_groups(name: str, groups: list[list[int]], depths: tuple[int, ...]) -> None:
    if tuple(len(group) for group in groups) != depths or any(
        width < 1 for group in groups for width in group
    ):
        raise ValueError(
            f"{name} must be widths of at least 1 in groups of {', '.join(map(str, depths))}, "
            f"got {groups}"
        )


__all__ = [
    "CLASSIFIERS",
    "CLASSIFIER_OF_MARGIN",
    "LOSSES",
    "MARGINS",
    "PRESETS",
    "EmoSynthNetConfig",
]
