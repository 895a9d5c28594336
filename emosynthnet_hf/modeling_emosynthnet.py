"""EmoSynthNet: a VGG/U-Net main branch with an Inception-like side branch (Nabaei, 2024, chapter
3).

Read from top to bottom: convolution unit, blocks, base model, classifier. `m` is the side of the
input in pixels; shapes in comments are (channels, height, width) at the thesis's widths.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_emosynthnet import SKIP_BLOCKS, EmoSynthNetConfig
from .margin_emosynthnet import MarginLoss, as_targets, cross_entropy

POOL_KERNEL = 7


class EmoSynthNetUnit(nn.Module):
    """3x3 convolution, ELU and batch normalisation, the last two in either order.

    (C, h, w) -> (C', h, w).

    Every unit ends in, or starts from, a normalisation whose shift stands in for the convolution's
    bias.
    `transposed` is the synthesis segment's unpadded transposed convolution, which grows h and w by
    2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm_first: bool, transposed: bool = False
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if transposed:
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=3, bias=False)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.norm_first = norm_first

    def forward(self, hidden_state: Tensor) -> Tensor:
        hidden_state = self.conv(hidden_state)
        if self.norm_first:
            return F.elu(self.norm(hidden_state))
        return self.norm(F.elu(hidden_state))


class EmoSynthNetBlock(GradientCheckpointingLayer):
    """Blocks 1 to 4: convolution units, an identity skip in blocks 1 and 3, 2x2 average pooling,
    dropout."""

    def __init__(self, config: EmoSynthNetConfig, index: int, in_channels: int) -> None:
        super().__init__()
        widths = config.analysis_widths[index]
        self.convs = nn.ModuleList(
            EmoSynthNetUnit(before, after, norm_first=config.norm_first)
            for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.has_skip = index in SKIP_BLOCKS
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(config.pooling_dropout)

    def forward(self, hidden_state: Tensor) -> Tensor:
        skip = None
        for number, conv in enumerate(self.convs, start=1):
            hidden_state = conv(hidden_state)
            if self.has_skip and number == 2:
                skip = hidden_state
        if skip is not None:
            hidden_state = hidden_state + skip
        return self.dropout(self.pool(hidden_state))


class EmoSynthNetSubBranch(nn.ModuleList):
    """A chain of padded convolutions, each followed by ReLU; returns every output."""

    def __init__(self, in_channels: int, widths: list[int], kernel_sizes: tuple[int, ...]) -> None:
        super().__init__(
            nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2)
            for before, after, kernel_size in zip(
                [in_channels, *widths[:-1]], widths, kernel_sizes, strict=True
            )
        )

    def forward(self, hidden_state: Tensor) -> list[Tensor]:
        outputs = []
        for conv in self:
            hidden_state = F.relu(conv(hidden_state))
            outputs.append(hidden_state)
        return outputs


class EmoSynthNetAuxiliaryModule(GradientCheckpointingLayer):
    """Inception-like module of the side branch (section 3.2.2): (C, h, w) -> (640, h, w)."""

    def __init__(self, config: EmoSynthNetConfig, in_channels: int) -> None:
        super().__init__()
        first, second, third = config.side_widths
        self.branch1 = EmoSynthNetSubBranch(in_channels, first, (1, 5, 5))
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.branch2 = EmoSynthNetSubBranch(in_channels, second, (1,))
        self.branch3 = EmoSynthNetSubBranch(in_channels, third, (1, 3, 3))
        self.out_channels = first[2] + second[0] + third[2] + first[1] + third[1]
        self.norm = nn.BatchNorm2d(self.out_channels) if config.side_norm else nn.Identity()

    def forward(self, hidden_state: Tensor) -> Tensor:
        _, second1, last1 = self.branch1(hidden_state)
        # On a CPU torch's max pooling is vectorised in channels_last alone: ten times as fast.
        pooled = self.pool(hidden_state.contiguous(memory_format=torch.channels_last))
        (last2,) = self.branch2(pooled)
        _, second3, last3 = self.branch3(hidden_state)
        # (96 + 64 + 192 + 96 + 192, h, w)
        return self.norm(torch.cat([last1, last2, last3, second1, second3], dim=1))


class EmoSynthNetSideBranch(nn.Module):
    """Two auxiliary modules in series, then 7x7 average pooling: (64, m/2, m/2) -> (640, m/16+2,
    m/16+2)."""

    def __init__(self, config: EmoSynthNetConfig, in_channels: int) -> None:
        super().__init__()
        first = EmoSynthNetAuxiliaryModule(config, in_channels)
        second = EmoSynthNetAuxiliaryModule(config, first.out_channels)
        self.auxiliary_modules = nn.ModuleList([first, second])
        self.pool = side_pooling(config.image_size)
        self.out_channels = second.out_channels

    def forward(self, hidden_state: Tensor) -> Tensor:
        for module in self.auxiliary_modules:
            hidden_state = module(hidden_state)
        return self.pool(hidden_state)


def side_pooling(image_size: int) -> nn.AvgPool2d | nn.AdaptiveAvgPool2d:
    """7x7 average pooling from side m/2 to side m/16+2, with the integer stride that lands there.

    Where no integer stride does (m = 96, 160, 192, ...), adaptive average pooling.
    """
    before, after = image_size // 2, image_size // 16 + 2
    span = before - POOL_KERNEL
    stride = span // (after - 1)  # the largest stride that reaches `after` positions
    if span // stride + 1 == after:
        return nn.AvgPool2d(POOL_KERNEL, stride=stride)
    return nn.AdaptiveAvgPool2d(after)


class EmoSynthNetClassifier(nn.Linear):
    """Last dense layer: (N, features) -> logits (N, K). See `config.classifier` for its kinds.

    The linear one starts near zero. Large random logits are cut fastest by pushing the first hidden
    dense layer, with its tens of thousands of inputs, so far down that its ELU is flat for every
    picture: seen with Adam at 1e-3, where nothing was learnt any more.

    Cosines are computed in float32 at least, under autocast too: angles near 0 need the digits.
    """

    def __init__(self, config: EmoSynthNetConfig, in_features: int) -> None:
        num_labels = cast(int, config.num_labels)  # validated
        super().__init__(in_features, num_labels, bias=config.classifier == "linear")
        self.kind, self.logit_scale = config.classifier, float(config.logit_scale)

    def forward(self, features: Tensor) -> Tensor:
        if self.kind not in ("unit_weights", "cosine"):
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            features, weight = _at_least_float32(features, self.weight)
            if self.kind == "cosine":
                features = self.logit_scale * F.normalize(features, dim=-1)
            return F.linear(features, F.normalize(weight, dim=-1))

    def norms(self, features: Tensor) -> Tensor | None:
        """What the cosines are multiplied by, broadcastable to (N, K); None if there is a bias."""
        if self.kind == "linear":
            return None
        features, weight = _at_least_float32(features, self.weight)
        if self.kind == "cosine":
            return features.new_full((1, 1), self.logit_scale)
        lengths = torch.linalg.vector_norm(features, dim=-1, keepdim=True)  # (N, 1)
        if self.kind == "unit_weights":
            return lengths
        return lengths * torch.linalg.vector_norm(weight, dim=-1)  # (N, 1) * (K,) -> (N, K)


def _at_least_float32(features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(features.dtype, torch.float32)
    return features.to(dtype), weight.to(dtype)


class EmoSynthNetPreTrainedModel(PreTrainedModel):
    """Initialisation and loading shared by the models below.

    Gradient checkpointing recomputes blocks 1 to 4 and the auxiliary modules in the backward pass.
    As everywhere in torch, their batch normalisation then sees each batch twice: gradients are the
    same, running statistics move as with momentum 0.19 instead of 0.1.
    """

    config: EmoSynthNetConfig
    base_model_prefix = "emosynthnet"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["EmoSynthNetBlock", "EmoSynthNetAuxiliaryModule"]

    def __init__(self, config: EmoSynthNetConfig, *args: Any, **kwargs: Any) -> None:
        # Overrides given to from_pretrained are set after the configuration's own validation.
        config.validate()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He et al. (2015) keeps the variance through ELU and ReLU; the library's N(0, 0.02) would
        let it vanish."""
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            # Transposed weights are (in, out, 3, 3): what torch calls their fan-out is the fan-in.
            mode = "fan_out" if isinstance(module, nn.ConvTranspose2d) else "fan_in"
            if isinstance(module, EmoSynthNetClassifier) and module.kind == "linear":
                init.normal_(module.weight, std=0.01)
            else:
                init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, MarginLoss):
            if module.raw_epsilon is not None:
                init.constant_(module.raw_epsilon, module.initial_raw_epsilon)
        else:
            super()._init_weights(module)


@dataclass
class EmoSynthNetModelOutput(BaseModelOutputWithPoolingAndNoAttention):
    """
    Args:
        last_hidden_state (`Tensor` of shape `(batch_size, 256, m/8+6, m/8+6)`):
            Block 5b's output, before the last upsampling.
        pooler_output (`Tensor` of shape `(batch_size, 64)`):
            The embedding, the second dense layer's output.
        hidden_states (`tuple[Tensor]`, with `output_hidden_states=True`):
            Outputs of blocks 1 to 4, of the side branch, of blocks 5a and 5b.
        side_state (`Tensor` of shape `(batch_size, 640, m/16+2, m/16+2)`):
            The side branch's pooled output.
    """

    side_state: Tensor | None = None


class EmoSynthNetModel(EmoSynthNetPreTrainedModel):
    """Main and side branch up to the embedding: pixel values (N, C, m, m) -> embedding (N, 64)."""

    def __init__(self, config: EmoSynthNetConfig) -> None:
        super().__init__(config)
        _, width2, width3, width4 = (widths[-1] for widths in config.analysis_widths)
        width1 = config.analysis_widths[0][-1]
        self.block1 = EmoSynthNetBlock(config, 0, config.num_channels)
        self.block2 = EmoSynthNetBlock(config, 1, width1)
        self.block3 = EmoSynthNetBlock(config, 2, width2)
        self.block4 = EmoSynthNetBlock(config, 3, width3)
        self.side_branch = EmoSynthNetSideBranch(config, width1)

        width5a, width5b = config.synthesis_widths
        joined = width5a + self.side_branch.out_channels + width3
        self.block5a = EmoSynthNetUnit(
            width4, width5a, norm_first=config.norm_first, transposed=True
        )
        self.block5b = EmoSynthNetUnit(
            joined, width5b, norm_first=config.norm_first, transposed=True
        )
        self.analysis_skip = nn.AdaptiveAvgPool2d(config.image_size // 16 + 2)

        dense1, dense2 = config.dense_widths
        self.dense1 = nn.Linear(width5b * (config.image_size // 4 + 12) ** 2, dense1)
        self.dense2 = nn.Linear(dense1, dense2)
        self.dropout = nn.Dropout(config.dense_dropout)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> EmoSynthNetModelOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, image_size, image_size)`):
                As [`EmoSynthNetImageProcessor`] makes them; cast to the dtype of the weights.
            output_hidden_states (`bool`, *optional*):
                Return the outputs of all blocks.

        Raises:
            ValueError: another shape.
        """
        self._check_shape(pixel_values)
        pixel_values = pixel_values.to(self.dtype)
        block1 = self.block1(pixel_values)  # (64, m/2, m/2)
        block2 = self.block2(block1)  # (128, m/4, m/4)
        block3 = self.block3(block2)  # (256, m/8, m/8)
        block4 = self.block4(block3)  # (512, m/16, m/16)
        side = self.side_branch(block1)  # (640, m/16+2, m/16+2)

        block5a = self.block5a(block4)  # (512, m/16+2, m/16+2)
        joined = torch.cat(
            [block5a, side, self.analysis_skip(block3)], dim=1
        )  # (1408, m/16+2, m/16+2)
        block5b = self.block5b(_upsample(joined))  # (256, m/8+6, m/8+6)

        # Dropout comes before the upsampling, so that the four copies of a pixel are dropped
        # together.
        flat = _upsample(self.dropout(block5b)).flatten(
            1
        )  # (256, m/4+12, m/4+12) -> (256 * (m/4+12)^2,)
        hidden = F.elu(self.dense1(flat))  # (128,)
        embedding = F.elu(self.dense2(self.dropout(hidden)))  # (64,)

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return EmoSynthNetModelOutput(
            last_hidden_state=block5b,
            pooler_output=embedding,
            hidden_states=(block1, block2, block3, block4, side, block5a, block5b)
            if output_hidden_states
            else None,
            side_state=side,
        )

    def _check_shape(self, pixel_values: Tensor) -> None:
        expected = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values must have shape (batch, {', '.join(map(str, expected))}), "
                f"got {tuple(pixel_values.shape)}"
            )


def _upsample(hidden_state: Tensor) -> Tensor:
    return F.interpolate(hidden_state, scale_factor=2.0, mode="nearest")


def training_loss(config: EmoSynthNetConfig) -> MarginLoss:
    """The configuration's margin and loss."""
    return MarginLoss(
        cast(int, config.num_labels),  # validated
        config.margin,
        config.loss,
        margin_kwargs=config.margin_kwargs,
        loss_kwargs=config.loss_kwargs,
        learnable_epsilon=config.learnable_epsilon,
        label_smoothing=config.label_smoothing,
        class_weights=config.class_weights,
    )


def evaluation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy without a margin, (), of logits (N, K) and classes (N,) or probabilities
    (N, K)."""
    log_probs = F.log_softmax(logits.float(), dim=-1)
    return cross_entropy(log_probs, as_targets(labels, log_probs)).mean()


@dataclass
class EmoSynthNetImageClassifierOutput(ModelOutput):
    """
    Args:
        loss (`Tensor` of shape `()`, with `labels`):
            In training the configured margin and loss; in evaluation plain cross-entropy of the
            logits below.
        logits (`Tensor` of shape `(batch_size, num_labels)`):
            Margin-free scores, divided by `config.temperature` in evaluation mode.
        hidden_states (`tuple[Tensor]`, with `output_hidden_states=True`):
            See [`EmoSynthNetModelOutput`].
        pooler_output (`Tensor` of shape `(batch_size, 64)`):
            The embedding.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    pooler_output: Tensor | None = None


class EmoSynthNetForImageClassification(EmoSynthNetPreTrainedModel):
    """EmoSynthNet with its classifier and, in training, its margin and loss.

    (N, C, m, m) -> logits (N, K).
    """

    def __init__(self, config: EmoSynthNetConfig) -> None:
        super().__init__(config)
        self.emosynthnet = EmoSynthNetModel(config)
        self.dropout = nn.Dropout(config.dense_dropout)
        self.classifier = EmoSynthNetClassifier(config, config.dense_widths[-1])
        self.auxiliary_classifier = None
        if config.auxiliary_loss_weight > 0:
            self.auxiliary_classifier = EmoSynthNetClassifier(
                config, self.emosynthnet.side_branch.out_channels
            )
        self.training_loss = training_loss(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> EmoSynthNetImageClassifierOutput:
        """
        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, image_size, image_size)`):
                As [`EmoSynthNetImageProcessor`] makes them.
            labels (`Tensor`, *optional*):
                Classes `(batch_size,)` as integers, or probabilities `(batch_size, num_labels)` as
                floats.
            output_hidden_states (`bool`, *optional*):
                Return the outputs of all blocks.
            num_items_in_batch (`int`, *optional*):
                Passed by transformers' Trainer: see [`MarginLoss`].

        Raises:
            ValueError: another shape of `pixel_values` or `labels`.
        """
        outputs = self.emosynthnet(pixel_values, output_hidden_states=output_hidden_states)
        features = self.dropout(outputs.pooler_output)
        logits = self.classifier(features)

        loss = None
        if self.training:
            if labels is not None:
                norms = self.classifier.norms(features)
                loss = self.training_loss(logits, labels, num_items_in_batch, norms)
                if self.auxiliary_classifier is not None:
                    side = outputs.side_state.mean(dim=(2, 3))
                    auxiliary_loss = self.training_loss(
                        self.auxiliary_classifier(side),
                        labels,
                        num_items_in_batch,
                        self.auxiliary_classifier.norms(side),
                    )
                    loss = loss + self.config.auxiliary_loss_weight * auxiliary_loss
        else:
            logits = logits / self.config.temperature
            if labels is not None:
                loss = evaluation_loss(logits, labels)

        return EmoSynthNetImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            pooler_output=outputs.pooler_output,
        )


__all__ = [
    "EmoSynthNetForImageClassification",
    "EmoSynthNetImageClassifierOutput",
    "EmoSynthNetModel",
    "EmoSynthNetModelOutput",
    "EmoSynthNetPreTrainedModel",
]
