"""All-CNN-C (Springenberg et al., 2015), the network that Figure 4.3 of the thesis compares losses
on; here to be trained by `compare.py` with `model.network: all_cnn`."""

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers.utils import ModelOutput

from emosynthnet_hf import EmoSynthNetConfig
from emosynthnet_hf.modeling_emosynthnet import (
    EmoSynthNetPreTrainedModel,
    evaluation_loss,
    training_loss,
)

# What a recipe may set of the configuration: the network's own sizes are the paper's.
FIELDS = (
    *("image_size", "num_channels", "margin", "margin_kwargs", "learnable_epsilon"),
    *("loss", "loss_kwargs", "label_smoothing", "class_weights"),
)


@dataclass
class AllCNNOutput(ModelOutput):
    """
    Args:
        loss (`Tensor` of shape `()`, with `labels`):
            In training the configured margin and loss, in evaluation plain cross-entropy.
        logits (`Tensor` of shape `(batch_size, num_labels)`):
            Margin-free scores.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class AllCNNForImageClassification(EmoSynthNetPreTrainedModel):
    """All-CNN-C as in the paper's tables 1 and 2, with a margin and a loss: (N, C, m, m) -> logits
    (N, K).

    Nine convolutions with a ReLU after each but the last, whose mean over the picture is the
    logits. Dropout as in the paper's section 3: 0.2 on the input, 0.5 after each convolution that
    takes the place of a pooling. Kaiming initialisation, as the paper names none. 1,369,738
    parameters with 3 channels and 10 classes (the paper: about 1.3 M).

    The paper's tables have a ReLU after the last convolution too. With Adam at 1e-3 all logits were
    0 within 32 steps, where that ReLU lets no gradient through, and nothing was learnt any
    more: it is left out.

    Args:
        config: of which the fields `FIELDS` and the labels are read.

    Raises:
        ValueError: a margin that needs another classifier than a linear one, as angular ones do.
    """

    _no_split_modules = []
    supports_gradient_checkpointing = False

    def __init__(self, config: EmoSynthNetConfig) -> None:
        super().__init__(config)
        if config.classifier != "linear":
            raise ValueError(
                f"All-CNN's logits are means of convolutions: classifier must be 'linear', "
                f"got {config.classifier!r} for margin {config.margin!r}"
            )
        num_labels = cast(int, config.num_labels)  # validated
        self.layers = nn.Sequential(
            nn.Dropout(0.2),
            *_conv(config.num_channels, 96, 3, padding=1),
            *_conv(96, 96, 3, padding=1),
            *_conv(96, 96, 3, padding=1, stride=2),  # (96, m/2, m/2)
            nn.Dropout(0.5),
            *_conv(96, 192, 3, padding=1),
            *_conv(192, 192, 3, padding=1),
            *_conv(192, 192, 3, padding=1, stride=2),  # (192, m/4, m/4)
            nn.Dropout(0.5),
            *_conv(192, 192, 3),  # (192, m/4-2, m/4-2): 6 x 6 at m = 32, as in table 2
            *_conv(192, 192, 1),
            nn.Conv2d(192, num_labels, 1),
        )
        self.training_loss = training_loss(config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> AllCNNOutput:
        """
        Args:
            pixel_values: (N, C, m, m) float.
            labels: classes (N,) as integers, or probabilities (N, K) as floats.
            num_items_in_batch: passed by transformers' Trainer: see [`MarginLoss`].
        """
        logits = self.layers(pixel_values).mean(dim=(2, 3))  # (N, K, m/4-2, m/4-2) -> (N, K)
        loss = None
        if labels is not None and self.training:
            loss = self.training_loss(logits, labels, num_items_in_batch)
        elif labels is not None:
            loss = evaluation_loss(logits, labels)
        return AllCNNOutput(loss=loss, logits=logits)


def _conv(
    in_channels: int, out_channels: int, side: int, *, padding: int = 0, stride: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, side, stride=stride, padding=padding)
    return [conv, nn.ReLU()]


__all__ = ["FIELDS", "AllCNNForImageClassification", "AllCNNOutput"]
