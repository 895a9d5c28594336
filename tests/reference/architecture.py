"""The network as a table written by hand from the decided reading, and what is counted from it.

Nothing here knows the package. `layers` lists every layer with weights; `parameters` and
`multiply_adds` count from that list; `stages` gives the sides and channels between the layers;
`forward` evaluates the same table from given weights, with averages, norms, upsampling and
transposed convolutions written out.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Layer(NamedTuple):
    name: str
    kind: str  # "conv" | "transposed" | "dense"
    inputs: int
    outputs: int
    kernel: int
    side: int  # of the output
    norm: bool  # batch norm: a scale and a shift per output channel, and then no bias


class Weights(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    norm: tuple[Tensor, Tensor, Tensor, Tensor, float] | None  # mean, variance, scale, shift, eps


def layers(m: int, channels: int, classes: int, divisor: int = 1) -> list[Layer]:
    """Every layer with weights for side `m`; `divisor` 2 halves all widths but the dense ones."""
    d = divisor
    table = [
        Layer("block1.1", "conv", channels, 32 // d, 3, m, True),
        Layer("block1.2", "conv", 32 // d, 64 // d, 3, m, True),
        Layer("block1.3", "conv", 64 // d, 64 // d, 3, m, True),
        Layer("block1.4", "conv", 64 // d, 64 // d, 3, m, True),
        Layer("block2.1", "conv", 64 // d, 128 // d, 3, m // 2, True),
        Layer("block2.2", "conv", 128 // d, 128 // d, 3, m // 2, True),
        Layer("block2.3", "conv", 128 // d, 128 // d, 3, m // 2, True),
        Layer("block2.4", "conv", 128 // d, 128 // d, 3, m // 2, True),
        Layer("block3.1", "conv", 128 // d, 256 // d, 3, m // 4, True),
        Layer("block3.2", "conv", 256 // d, 256 // d, 3, m // 4, True),
        Layer("block3.3", "conv", 256 // d, 256 // d, 3, m // 4, True),
        Layer("block3.4", "conv", 256 // d, 256 // d, 3, m // 4, True),
        Layer("block4.1", "conv", 256 // d, 512 // d, 3, m // 8, True),
        Layer("block4.2", "conv", 512 // d, 512 // d, 3, m // 8, True),
        Layer("block4.3", "conv", 512 // d, 512 // d, 3, m // 8, True),
        Layer("side1.1.1", "conv", 64 // d, 64 // d, 1, m // 2, False),
        Layer("side1.1.2", "conv", 64 // d, 96 // d, 5, m // 2, False),
        Layer("side1.1.3", "conv", 96 // d, 96 // d, 5, m // 2, False),
        Layer("side1.2.1", "conv", 64 // d, 64 // d, 1, m // 2, False),
        Layer("side1.3.1", "conv", 64 // d, 128 // d, 1, m // 2, False),
        Layer("side1.3.2", "conv", 128 // d, 192 // d, 3, m // 2, False),
        Layer("side1.3.3", "conv", 192 // d, 192 // d, 3, m // 2, False),
        Layer("side2.1.1", "conv", 640 // d, 64 // d, 1, m // 2, False),
        Layer("side2.1.2", "conv", 64 // d, 96 // d, 5, m // 2, False),
        Layer("side2.1.3", "conv", 96 // d, 96 // d, 5, m // 2, False),
        Layer("side2.2.1", "conv", 640 // d, 64 // d, 1, m // 2, False),
        Layer("side2.3.1", "conv", 640 // d, 128 // d, 1, m // 2, False),
        Layer("side2.3.2", "conv", 128 // d, 192 // d, 3, m // 2, False),
        Layer("side2.3.3", "conv", 192 // d, 192 // d, 3, m // 2, False),
        Layer("block5a", "transposed", 512 // d, 512 // d, 3, m // 16 + 2, True),
        Layer("block5b", "transposed", 1408 // d, 256 // d, 3, m // 8 + 6, True),
        Layer("dense1", "dense", (256 // d) * (m // 4 + 12) ** 2, 128, 1, 1, False),
        Layer("dense2", "dense", 128, 64, 1, 1, False),
        Layer("dense3", "dense", 64, classes, 1, 1, False),
    ]
    return table


def stages(m: int, classes: int, divisor: int = 1) -> dict[str, tuple[int, ...]]:
    """(channels, height, width) after each row of the table, in the order of the rows."""
    d = divisor
    return {
        "block1": (64 // d, m // 2, m // 2),
        "block2": (128 // d, m // 4, m // 4),
        "block3": (256 // d, m // 8, m // 8),
        "block4": (512 // d, m // 16, m // 16),
        "side_branch": (640 // d, m // 16 + 2, m // 16 + 2),
        "skip": (256 // d, m // 16 + 2, m // 16 + 2),
        "block5a": (512 // d, m // 16 + 2, m // 16 + 2),
        "concatenation": (1408 // d, m // 16 + 2, m // 16 + 2),
        "up1": (1408 // d, m // 8 + 4, m // 8 + 4),
        "block5b": (256 // d, m // 8 + 6, m // 8 + 6),
        "up2": (256 // d, m // 4 + 12, m // 4 + 12),
        "embedding": (64,),
        "logits": (classes,),
    }


def parameters(table: list[Layer]) -> int:
    count = 0
    for layer in table:
        count += layer.inputs * layer.outputs * layer.kernel * layer.kernel
        count += 2 * layer.outputs if layer.norm else layer.outputs
    return count


def multiply_adds(table: list[Layer], transposed_at: str = "input") -> int:
    """Multiply-adds of one image; a transposed convolution's input side is its output's less 2."""
    count = 0
    for layer in table:
        side = layer.side
        if layer.kind == "transposed" and transposed_at == "input":
            side -= 2
        count += layer.inputs * layer.outputs * layer.kernel * layer.kernel * side * side
    return count


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x.clamp(max=0).exp() - 1)


def batch_norm(x: Tensor, norm: tuple[Tensor, Tensor, Tensor, Tensor, float]) -> Tensor:
    mean, variance, scale, shift, eps = (
        part[:, None, None] if isinstance(part, Tensor) else part for part in norm
    )
    return (x - mean) / (variance + eps) ** 0.5 * scale + shift


def average_2x2(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4


def average_to(x: Tensor, side: int) -> Tensor:
    """Averages over windows from floor(i n / side) to ceil((i + 1) n / side)."""
    n = x.shape[-1]
    starts = [i * n // side for i in range(side)]
    stops = [-(-(i + 1) * n // side) for i in range(side)]
    rows = []
    for top, bottom in zip(starts, stops, strict=True):
        cells = [
            x[..., top:bottom, left:right].mean(dim=(-2, -1))
            for left, right in zip(starts, stops, strict=True)
        ]
        rows.append(torch.stack(cells, dim=-1))
    return torch.stack(rows, dim=-2)


def average_7x7_to(x: Tensor, side: int) -> Tensor:
    """7x7 windows at the integer stride that gives `side`; without one, those of `average_to`."""
    n = x.shape[-1]
    for stride in range(1, n):
        if (n - 7) // stride + 1 == side:
            rows = []
            for i in range(side):
                cells = [
                    x[..., i * stride : i * stride + 7, j * stride : j * stride + 7].mean((-2, -1))
                    for j in range(side)
                ]
                rows.append(torch.stack(cells, dim=-1))
            return torch.stack(rows, dim=-2)
    return average_to(x, side)


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def forward(
    x: Tensor, weights: Mapping[str, Weights], norm_first: bool = False
) -> dict[str, Tensor]:
    """Every row's output in evaluation mode for images `x` (N, C, m, m), keyed as `stages`."""
    m = x.shape[-1]

    def unit(x: Tensor, name: str) -> Tensor:
        weight, bias, norm = weights[name]
        x = functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        return activated(x, norm)

    def activated(x: Tensor, norm: tuple[Tensor, Tensor, Tensor, Tensor, float] | None) -> Tensor:
        if norm is None:
            return x.clamp(min=0)
        return elu(batch_norm(x, norm)) if norm_first else batch_norm(elu(x), norm)

    def transposed(x: Tensor, name: str) -> Tensor:
        # a stride-1 transposed convolution is a full convolution with the mirrored kernel
        weight, bias, norm = weights[name]
        mirrored = weight.transpose(0, 1).flip(-1, -2)
        return activated(functional.conv2d(x, mirrored, bias, padding=2), norm)

    def block(x: Tensor, name: str, depth: int, skip: bool) -> Tensor:
        outputs = []
        for i in range(1, depth + 1):
            x = unit(x, f"{name}.{i}")
            outputs.append(x)
        return average_2x2(outputs[3] + outputs[1]) if skip else average_2x2(x)

    def auxiliary(x: Tensor, name: str) -> Tensor:
        first_1 = unit(x, f"{name}.1.1")
        first_2 = unit(first_1, f"{name}.1.2")
        first_3 = unit(first_2, f"{name}.1.3")
        padded = functional.pad(x, (1, 1, 1, 1), value=float("-inf"))
        windows = padded.unfold(-2, 3, 1).unfold(-2, 3, 1)
        second = unit(windows.amax(dim=(-2, -1)), f"{name}.2.1")
        third_1 = unit(x, f"{name}.3.1")
        third_2 = unit(third_1, f"{name}.3.2")
        third_3 = unit(third_2, f"{name}.3.3")
        return torch.cat([first_3, second, third_3, first_2, third_2], dim=1)

    def dense(x: Tensor, name: str) -> Tensor:
        weight, bias, _ = weights[name]
        return x @ weight.T + (0 if bias is None else bias)

    out: dict[str, Tensor] = {}
    out["block1"] = block(x, "block1", 4, skip=True)
    out["block2"] = block(out["block1"], "block2", 4, skip=False)
    out["block3"] = block(out["block2"], "block3", 4, skip=True)
    out["block4"] = block(out["block3"], "block4", 3, skip=False)
    side = auxiliary(auxiliary(out["block1"], "side1"), "side2")
    out["side_branch"] = average_7x7_to(side, m // 16 + 2)
    out["skip"] = average_to(out["block3"], m // 16 + 2)
    out["block5a"] = transposed(out["block4"], "block5a")
    out["concatenation"] = torch.cat([out["block5a"], out["side_branch"], out["skip"]], dim=1)
    out["up1"] = twice(out["concatenation"])
    out["block5b"] = transposed(out["up1"], "block5b")
    out["up2"] = twice(out["block5b"])
    hidden = elu(dense(out["up2"].flatten(1), "dense1"))
    out["embedding"] = elu(dense(hidden, "dense2"))
    out["logits"] = dense(out["embedding"], "dense3")
    return out
