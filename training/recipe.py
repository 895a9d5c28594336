"""Recipes: one YAML file an experiment, read into frozen dataclasses that refuse unknown keys."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from emosynthnet_hf.augmentation import Augmentation


class _Loader(yaml.SafeLoader):
    """Reads 5e-4 as a number, as YAML 1.2 does; PyYAML's YAML 1.1 would make it a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)

CLASS_WEIGHTS = ("none", "inverse_frequency")
NETWORKS = ("emosynthnet", "all_cnn")


@dataclass(frozen=True)
class DataRecipe:
    """Where the pictures come from: the arguments of `emosynthnet_hf.data.load_splits`.

    Attributes:
        id: Hub data set, or a folder.
        adapter: label adapter, or None to find it.
        image_column, label_column: or None to find them.
        config_name: of a Hub data set that has several.
        validation_fraction: of train, where there is no validation split.
        fold: 0 to 9 of ten folds by subject, or None.
    """

    id: str
    adapter: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    config_name: str | None = None
    validation_fraction: float = 0.1
    fold: int | None = None

    def reading(self) -> dict[str, Any]:
        """Keyword arguments for `load_splits`."""
        return {name: value for name, value in asdict(self).items() if name != "id"}


@dataclass(frozen=True)
class TwoScale:
    """Two-scale training (section 3.3.2).

    Attributes:
        rescale_factor: by which pixels are multiplied from `switch_epoch` on.
        switch_epoch: epochs done with the processor's own factor.
    """

    rescale_factor: float
    switch_epoch: int


@dataclass(frozen=True)
class Distillation:
    """Self-distillation: labels are blended with the probabilities that a checkpoint trained on the
    same pictures gives them (Furlanello et al., 2018, born-again networks).

    Attributes:
        teacher: checkpoint, folder or Hub id, with the data's labels.
        weight: of the teacher's probabilities, in (0, 1]; the label has the rest.
    """

    teacher: str
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"weight must be in (0, 1], got {self.weight}")


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Attributes:
        data: where the pictures come from.
        model: `preset`, and any field of `EmoSynthNetConfig`; with `start_from`, the fields that
            differ from the checkpoint's. Or `network: all_cnn` and the fields that it reads, for
            comparisons: see `all_cnn.py`.
        start_from: checkpoint, folder or Hub id, to start from; None starts from scratch.
        processor: fields of `EmoSynthNetImageProcessor`, side and channels follow the model; with
            `start_from`, the fields that differ from the checkpoint's.
        augmentation: ranges of the augmentation.
        mixup_alpha: of mixup's Beta distribution; 0 mixes nothing.
        class_weights: `none` or `inverse_frequency` (N / (K * N_k) for class k).
        two_scale: or None.
        distillation: or None.
        ema_decay: of an exponential moving average of the weights over steps, in [0, 1), which is
            validated and saved in their place; 0 averages nothing.
        average_with: checkpoints, folders or Hub ids, whose weights are averaged with the best ones
            at the end; see `trainer.average_weights`.
        training: fields of transformers' `TrainingArguments`.
    """

    data: DataRecipe
    model: dict[str, Any] = field(default_factory=dict)
    start_from: str | None = None
    processor: dict[str, Any] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixup_alpha: float = 0.0
    class_weights: str = "none"
    two_scale: TwoScale | None = None
    distillation: Distillation | None = None
    ema_decay: float = 0.0
    average_with: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            allowed = ", ".join(CLASS_WEIGHTS)
            raise ValueError(f"class_weights must be one of {allowed}, got {self.class_weights!r}")
        if self.start_from is not None and "preset" in self.model:
            raise ValueError("model.preset cannot be set with start_from, which brings its widths")
        if self.network not in NETWORKS:
            allowed = ", ".join(NETWORKS)
            raise ValueError(f"model.network must be one of {allowed}, got {self.network!r}")
        if self.network != NETWORKS[0] and self.start_from is not None:
            raise ValueError(f"start_from must be left out with model.network {self.network}")
        if self.mixup_alpha < 0:
            raise ValueError(f"mixup_alpha must be at least 0, got {self.mixup_alpha}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if isinstance(self.average_with, str):
            raise ValueError(f"average_with must be a list, got {self.average_with!r}")
        if self.average_with and self.two_scale is not None:
            raise ValueError("average_with must be left out with two_scale, which trains others")
        for name in ("eval_strategy", "save_strategy"):
            strategy = self.training.get(name, "epoch")
            if self.ema_decay > 0 and strategy != "epoch":
                raise ValueError(f"ema_decay needs training.{name} epoch, got {strategy}")

    @property
    def network(self) -> str:
        """Which network is trained: one of `NETWORKS`."""
        return str(self.model.get("network", NETWORKS[0]))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with overrides such as `training.num_train_epochs=3`, values in YAML.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key, or a value out of range.
    """
    values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"an override must be section.key=value, got {override!r}")
        *sections, key = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = yaml.load(value, _Loader)
    return recipe_from(values, path.name)


def recipe_from(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe of a mapping, as a file holds it or `asdict` gives it. What it leaves out, as
    settings that came after it, has its default. `where` is named in errors.

    Raises:
        ValueError: an unknown key, or a value out of range.
    """
    built = dict(values)
    parts: dict[str, type] = {
        "data": DataRecipe,
        "augmentation": Augmentation,
        "two_scale": TwoScale,
        "distillation": Distillation,
    }
    for name, part in parts.items():
        if built.get(name) is not None:
            built[name] = _build(part, built[name], f"{where}: {name}")
    recipe: Recipe = _build(Recipe, built, where)
    return recipe


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    allowed = [item.name for item in fields(cls)]
    unknown = [name for name in values if name not in allowed]
    if unknown:
        raise ValueError(f"{where} may hold {', '.join(allowed)}, got {', '.join(unknown)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
