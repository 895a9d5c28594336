"""The configuration: presets, validation of every field, round trips, registration."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import (
    StrictDataclassClassValidationError,
    StrictDataclassFieldValidationError,
)
from transformers import AutoConfig

from emosynthnet_hf import EmoSynthNetConfig, EmoSynthNetForImageClassification

# Different from every default, and every width from its neighbours.
UNUSUAL: dict[str, Any] = {
    "image_size": 64,
    "num_channels": 3,
    "analysis_widths": [[3, 4, 5, 4], [6, 7, 8, 9], [7, 8, 9, 8], [10, 11, 12]],
    "synthesis_widths": [11, 6],
    "side_widths": [[3, 4, 5], [2], [4, 5, 6]],
    "dense_widths": [12, 10],
    "norm_first": True,
    "side_norm": True,
    "pooling_dropout": 0.1,
    "dense_dropout": 0.2,
    "auxiliary_loss_weight": 0.3,
    "margin": "mam_all",
    "margin_kwargs": {"epsilon": 0.3, "differentiable": True},
    "learnable_epsilon": True,
    "loss": "ce",
    "loss_kwargs": {},
    "classifier": "cosine",
    "logit_scale": 12.5,
    "label_smoothing": 0.05,
    "class_weights": [1.0, 2.0, 0.5],
    "temperature": 1.7,
}


def test_defaults_are_the_thesis() -> None:
    config = EmoSynthNetConfig()
    assert (config.image_size, config.num_channels, config.num_labels) == (48, 1, 7)
    assert config.analysis_widths == [[32, 64, 64, 64], [128] * 4, [256] * 4, [512] * 3]
    assert config.synthesis_widths == [512, 256]
    assert config.side_widths == [[64, 96, 96], [64], [128, 192, 192]]
    assert config.dense_widths == [128, 64]
    assert (config.margin, config.loss) == ("mam", "sce")
    assert not config.norm_first
    assert not config.side_norm
    assert config.auxiliary_loss_weight == 0
    assert config.temperature == 1
    assert config.class_weights is None
    assert EmoSynthNetConfig.from_preset("base").to_dict() == config.to_dict()


def test_small_preset_is_half_the_widths_with_the_same_embedding() -> None:
    config = EmoSynthNetConfig.from_preset("small", image_size=32, num_channels=3, num_labels=10)
    assert config.analysis_widths == [[16, 32, 32, 32], [64] * 4, [128] * 4, [256] * 3]
    assert config.synthesis_widths == [256, 128]
    assert config.side_widths == [[32, 48, 48], [32], [64, 96, 96]]
    assert config.dense_widths == [128, 64]
    assert (config.image_size, config.num_channels, config.num_labels) == (32, 3, 10)


def test_unknown_preset_names_the_presets() -> None:
    with pytest.raises(ValueError, match=r"base, small.*got 'huge'"):
        EmoSynthNetConfig.from_preset("huge")


def test_configurations_share_no_lists() -> None:
    EmoSynthNetConfig().analysis_widths[0][0] = 1
    EmoSynthNetConfig.from_preset("small").side_widths[0][0] = 1
    EmoSynthNetConfig().margin_kwargs["epsilon"] = 1.0
    assert EmoSynthNetConfig().analysis_widths[0][0] == 32
    assert EmoSynthNetConfig.from_preset("small").side_widths[0][0] == 32
    assert EmoSynthNetConfig().margin_kwargs == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 16}, r"image_size must be a multiple of 16, at least 32, got 16"),
        ({"image_size": 0}, r"image_size.*got 0"),
        ({"image_size": 50}, r"image_size must be a multiple of 16, at least 32, got 50"),
        ({"num_channels": 2}, r"num_channels must be 1.*3.*got 2"),
        ({"num_channels": 0}, r"num_channels must be 1.*3.*got 0"),
        ({"analysis_widths": [[8] * 4, [8] * 4, [8] * 4]}, r"analysis_widths.*4, 4, 4, 3.*got"),
        (
            {"analysis_widths": [[8] * 4, [8] * 3, [8] * 4, [8] * 3]},
            r"analysis_widths.*4, 4, 4, 3.*got",
        ),
        (
            {"analysis_widths": [[8] * 4, [8, 0, 8, 8], [8] * 4, [8] * 3]},
            r"analysis_widths.*at least 1.*got",
        ),
        (
            {"analysis_widths": [[8, 8, 8, 9], [8] * 4, [8] * 4, [8] * 3]},
            r"analysis_widths.*block 1.*equal, got 8 and 9",
        ),
        (
            {"analysis_widths": [[8] * 4, [8] * 4, [8, 7, 8, 8], [8] * 3]},
            r"analysis_widths.*block 3.*equal, got 7 and 8",
        ),
        ({"synthesis_widths": [8]}, r"synthesis_widths.*2.*got"),
        ({"synthesis_widths": [8, -1]}, r"synthesis_widths.*at least 1.*got.*-1"),
        ({"side_widths": [[8] * 3, [8] * 3, [8]]}, r"side_widths.*3, 1, 3.*got"),
        ({"side_widths": [[8] * 3, [0], [8] * 3]}, r"side_widths.*at least 1.*got"),
        ({"dense_widths": [8, 8, 8]}, r"dense_widths.*2.*got"),
        ({"dense_widths": [0, 8]}, r"dense_widths.*at least 1.*got.*0"),
        ({"pooling_dropout": 1.0}, r"pooling_dropout must be in \[0, 1\), got 1.0"),
        ({"pooling_dropout": -0.1}, r"pooling_dropout must be in \[0, 1\), got -0.1"),
        ({"dense_dropout": 1.5}, r"dense_dropout must be in \[0, 1\), got 1.5"),
        ({"dense_dropout": float("nan")}, r"dense_dropout must be in \[0, 1\), got nan"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"auxiliary_loss_weight": -0.3}, r"auxiliary_loss_weight.*at least 0, got -0.3"),
        ({"auxiliary_loss_weight": float("inf")}, r"auxiliary_loss_weight.*finite.*got inf"),
        ({"temperature": 0.0}, r"temperature.*above 0, got 0.0"),
        ({"temperature": -1.0}, r"temperature.*above 0, got -1.0"),
        ({"temperature": float("nan")}, r"temperature.*finite.*got nan"),
        ({"margin": "arcface"}, r"margin must be one of none, mam.*got 'arcface'"),
        ({"loss": "bce"}, r"loss must be one of ce, sce.*got 'bce'"),
        ({"classifier": "dense"}, r"classifier must be one of linear, unb.*got 'dense'"),
        ({"margin": "am", "classifier": "linear"}, r"'am' needs classifier 'cosine', got 'linear'"),
        ({"logit_scale": 0.0}, r"logit_scale must be finite and above 0, got 0.0"),
        ({"margin": "none", "learnable_epsilon": True}, r"learnable_epsilon.*'none'"),
        ({"num_labels": 1}, r"num_labels must be at least 2, got 1"),
        ({"class_weights": [1.0] * 6 + [-1.0]}, r"class_weights.*at least 0.*-1.0"),
        ({"class_weights": [0.0] * 7}, r"class_weights.*not all 0.*got"),
        ({"class_weights": [1.0] * 6 + [float("nan")]}, r"class_weights.*finite.*nan"),
        ({"margin_kwargs": {"epsilon": 0.0}}, r"epsilon must be above 0, got 0.0"),
        ({"margin_kwargs": {"maximum": -4.0}}, r"maximum must be above 0, got -4.0"),
        ({"margin_kwargs": {"m": 0.35}}, r"margin_kwargs.*epsilon.*got m"),
        ({"loss_kwargs": {"gamma": 2.0}}, r"loss_kwargs.*ce_weight.*got gamma"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_values_out_of_range_are_refused_before_any_training(
    fields: dict[str, Any], message: str
) -> None:
    tiny = {name: UNUSUAL[name] for name in ("analysis_widths", "synthesis_widths", "side_widths")}
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        EmoSynthNetForImageClassification(EmoSynthNetConfig(**(tiny | fields)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", "48"),
        ("image_size", 48.0),
        ("num_channels", "1"),
        ("analysis_widths", 64),
        ("analysis_widths", [[8, 8, 8, 8.0], [8] * 4, [8] * 4, [8] * 3]),
        ("synthesis_widths", [[512, 256]]),
        ("side_widths", [64, 96, 96]),
        ("dense_widths", "128"),
        ("norm_first", 1),
        ("side_norm", "yes"),
        ("pooling_dropout", "0.3"),
        ("dense_dropout", None),
        ("auxiliary_loss_weight", "0.3"),
        ("margin", None),
        ("margin_kwargs", [0.2]),
        ("learnable_epsilon", 1),
        ("loss", 3),
        ("loss_kwargs", None),
        ("label_smoothing", "0.1"),
        ("class_weights", "balanced"),
        ("temperature", "1"),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        EmoSynthNetConfig(**{name: value})


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "pooling_dropout": 0,
        "dense_dropout": 0,
        "auxiliary_loss_weight": 1,
        "label_smoothing": 0,
        "temperature": 2,
        "class_weights": [1, 2, 0.5, 1, 1, 1, 1],
    }
    EmoSynthNetConfig(**fields).save_pretrained(tmp_path)
    loaded = EmoSynthNetConfig.from_pretrained(tmp_path)
    for name, value in fields.items():
        assert getattr(loaded, name) == value, name


def test_every_field_of_its_own_is_covered_above() -> None:
    inherited = set(EmoSynthNetConfig.__mro__[1]().to_dict())
    own = set(EmoSynthNetConfig().to_dict()) - inherited
    assert own == set(UNUSUAL)


def test_round_trip_keeps_every_field_and_its_type(tmp_path: Path) -> None:
    config = EmoSynthNetConfig(
        **UNUSUAL, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2}
    )
    config.save_pretrained(tmp_path)
    loaded = EmoSynthNetConfig.from_pretrained(tmp_path)
    for name, value in UNUSUAL.items():
        assert getattr(loaded, name) == value, name
        assert type(getattr(loaded, name)) is type(value), name
    assert loaded.num_labels == 3
    assert loaded.id2label == {0: "a", 1: "b", 2: "c"}
    assert loaded.label2id == {"a": 0, "b": 1, "c": 2}
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": loaded._name_or_path}
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "emosynthnet"


@pytest.mark.parametrize("classes", [2, 3, 7, 10, 1000])
def test_any_number_of_classes_survives_saving(tmp_path: Path, classes: int) -> None:
    EmoSynthNetConfig.from_preset("base", num_labels=classes).save_pretrained(tmp_path)
    loaded = EmoSynthNetConfig.from_pretrained(tmp_path)
    assert loaded.num_labels == classes
    assert loaded.id2label is not None
    assert loaded.label2id is not None
    assert len(loaded.id2label) == len(loaded.label2id) == classes


def test_number_of_class_weights_is_checked_by_the_model() -> None:
    config = EmoSynthNetConfig.from_preset("quarter", class_weights=[1.0] * 6)
    with pytest.raises(ValueError, match=r"class_weights must have 7 entries.*got 6"):
        EmoSynthNetForImageClassification(config)


def test_class_names_say_how_many_classes_there_are() -> None:
    config = EmoSynthNetConfig(id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    assert config.num_labels == 2
    assert config.id2label == {0: "cat", 1: "dog"}


def test_saved_values_out_of_range_are_refused_when_loaded(tmp_path: Path) -> None:
    EmoSynthNetConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": 50}))
    with pytest.raises(StrictDataclassClassValidationError, match=r"image_size.*got 50"):
        EmoSynthNetConfig.from_pretrained(tmp_path)


def test_auto_config_knows_the_model_type(tmp_path: Path) -> None:
    EmoSynthNetConfig.from_preset("base", num_labels=3).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is EmoSynthNetConfig
    assert type(AutoConfig.for_model("emosynthnet")) is EmoSynthNetConfig
