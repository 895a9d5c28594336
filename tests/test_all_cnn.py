"""All-CNN-C against the paper's tables, and its losses against torch's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import train
from all_cnn import FIELDS, AllCNNForImageClassification
from emosynthnet_hf import EmoSynthNetConfig
from recipe import DataRecipe, Recipe

# Springenberg et al. (2015), tables 1 and 2, model C with strides for poolings, at 32 x 32:
# output channels, side of the kernel, side of the output.
TABLE = [
    (96, 3, 32),
    (96, 3, 32),
    (96, 3, 16),
    (192, 3, 16),
    (192, 3, 16),
    (192, 3, 8),
    (192, 3, 6),
    (192, 1, 6),
    (10, 1, 6),
]
DIGITS = {
    "id2label": dict(enumerate("0123456789")),
    "label2id": {digit: number for number, digit in enumerate("0123456789")},
}


def build(**settings: Any) -> AllCNNForImageClassification:
    torch.manual_seed(0)
    return AllCNNForImageClassification(EmoSynthNetConfig(image_size=32, **DIGITS, **settings))


@pytest.mark.parametrize("channels", [1, 3])
def test_layers_are_those_of_the_papers_table(channels: int) -> None:
    model = build(num_channels=channels).eval()
    convs = [layer for layer in model.layers if isinstance(layer, nn.Conv2d)]
    shapes: list[tuple[int, ...]] = []
    for conv in convs:
        conv.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    model(torch.rand(2, channels, 32, 32))
    assert shapes == [(width, side, side) for width, _, side in TABLE]
    inputs = [channels, *(width for width, _, _ in TABLE)]
    for conv, width, (outputs, side, _) in zip(convs, inputs[:-1], TABLE, strict=True):
        assert conv.weight.shape == (outputs, width, side, side)
    # Every convolution but the last is followed by a ReLU; dropout is on the input and after the
    # two strides.
    names = [type(layer).__name__ for layer in model.layers]
    conv3 = ["Conv2d", "ReLU"] * 3
    assert names == ["Dropout", *conv3, "Dropout", *conv3, "Dropout", *conv3[:-1]]
    rates = [layer.p for layer in model.layers if isinstance(layer, nn.Dropout)]
    assert rates == [0.2, 0.5, 0.5]


def test_parameters_by_hand() -> None:
    # 2,688 + 2 x 83,040 + 166,080 + 3 x 331,968 + 37,056 + 1,930; the paper says about 1.3 M.
    weights = sum(
        parameter.numel() for parameter in build(num_channels=3, margin="none").parameters()
    )
    assert weights == 1_369_738
    # One channel: 2 x 96 x 9 weights fewer.
    assert build(margin="none").num_parameters() == 1_369_738 - 1_728


def test_logits_are_means_over_the_picture_and_evaluation_is_cross_entropy() -> None:
    model = build().eval()
    pixels, labels = torch.rand(3, 1, 32, 32), torch.tensor([1, 0, 7])
    maps = model.layers(pixels)
    assert maps.shape == (3, 10, 6, 6)
    output = model(pixels, labels)
    torch.testing.assert_close(output.logits, maps.sum(dim=(2, 3)) / 36)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
    assert model(pixels).loss is None


def test_training_scores_margin_and_loss_and_reaches_every_weight() -> None:
    model = build(margin="sm", margin_kwargs={"margin": 1.0}, loss="ce").train()
    pixels, labels = torch.rand(4, 1, 32, 32), torch.tensor([1, 0, 7, 7])
    output = model(pixels, labels, num_items_in_batch=8)
    lowered = output.logits - F.one_hot(labels, 10)
    # Half of a step of eight pictures.
    torch.testing.assert_close(output.loss, F.cross_entropy(lowered, labels) / 2)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not torch.equal(model(pixels).logits, output.logits)  # dropout


def test_angular_margins_are_refused() -> None:
    with pytest.raises(ValueError, match="classifier must be 'linear', got 'cosine' for margin"):
        build(margin="am")


def test_a_recipe_chooses_the_network() -> None:
    def config(**model: Any) -> EmoSynthNetConfig:
        recipe = Recipe(DataRecipe("digits"), model=model)
        return train.model_config(recipe, list(DIGITS["label2id"]))

    settings = {"network": "all_cnn", "image_size": 32, "num_channels": 1, "loss": "ce"}
    recipe = Recipe(DataRecipe("digits"), model=settings)
    model = train.initial_model(recipe, config(**settings))
    assert isinstance(model, AllCNNForImageClassification)
    assert model.config.loss == "ce"
    assert set(FIELDS) <= set(model.config.to_dict())
    with pytest.raises(ValueError, match=r"model may hold network, image_size,.*got preset, dense"):
        config(network="all_cnn", preset="small", dense_dropout=0.3)
    with pytest.raises(ValueError, match="network must be one of emosynthnet, all_cnn, got 'vgg'"):
        config(network="vgg")
    with pytest.raises(ValueError, match=r"start_from must be left out with model.network all_cnn"):
        Recipe(DataRecipe("digits"), model={"network": "all_cnn"}, start_from="checkpoint")
    with pytest.raises(ValueError, match="network must be emosynthnet for a checkpoint"):
        train.train(recipe, "digits", Path("nowhere"))
