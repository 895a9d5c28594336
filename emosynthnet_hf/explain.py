"""Explanations: Grad-CAM, guided backpropagation and their product, for any image classifier.

Pure functions, tensors in, tensors out. They work on every `nn.Module` that returns logits or a
`ModelOutput` with `logits`, compute in evaluation mode, and leave the model's modes, gradients and
hooks as they were, also when something fails. The caller may be inside `torch.no_grad` or
`torch.inference_mode`. While a call runs the model is not as it was: no two threads may use one
model at a time.
"""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Its maps are better than block 4's by deletion and by insertion (checkpoints/*/faithfulness.md).
DEFAULT_LAYER = "emosynthnet.block3.convs.3"
METHODS = ("grad_cam", "guided_backpropagation", "guided_grad_cam")
# Layers of EmoSynthNet whose maps are worth a look; see `grid_extent`.
LAYERS = (DEFAULT_LAYER, "emosynthnet.block4.convs.2", "emosynthnet.block5a", "emosynthnet.block5b")


@dataclass(frozen=True)
class GridExtent:
    """The square of the picture that a layer's grid spans, in pixels from the top left corner."""

    start_pixels: float
    stop_pixels: float


def grid_extent(layer: str, image_size: int) -> GridExtent:
    """Where a layer looks, for an input of side m = `image_size`: 0 to m, but for block 5.

    In blocks 1 to 4 of EmoSynthNet, as in most networks, the cells of a grid divide the picture. An
    unpadded 3x3 transposed convolution adds a cell on each side. Block 5a's cells are 16 pixels, so
    its grid of m/16+2 cells spans -16 to m+16. Upsampling halves them and block 5b adds one more a
    side: its m/8+6 cells of 8 pixels span -24 to m+24. That is the main path's geometry. The side
    branch reaches block 5b by a grid of its own, which lies nearer to the picture: what it adds to
    block 5b's maps is drawn too far out.

    Args:
        layer: as in `grad_cam`; parts of block 5, and models that wrap EmoSynthNet, count too.
        image_size: in pixels.
    """
    for block, beyond in ((".emosynthnet.block5a.", 16), (".emosynthnet.block5b.", 24)):
        if block in f".{layer}.":
            return GridExtent(-beyond, image_size + beyond)
    return GridExtent(0, image_size)


def grad_cam(
    model: nn.Module,
    pixel_values: Tensor,
    layer: str = DEFAULT_LAYER,
    classes: Sequence[int] | Tensor | None = None,
    *,
    extent: GridExtent | None = None,
    relu: bool = True,
) -> Tensor:
    """Grad-CAM maps (Selvaraju et al., 2017; eq. 3.1 of the thesis), raw, on the picture's grid.

    One forward pass for the batch and one backward pass a class, which stops at the layer.

    Args:
        model: classifier whose logits are (N, K).
        pixel_values: (N, C, H, W) float.
        layer: name of a module whose output is (N, channels, h, w), as in `model.named_modules()`.
        classes: the classes to explain: the same for all pictures, or integers (N, n) that give
            each picture its own. None: all K.
        extent: what the layer's grid spans; by default `grid_extent(layer, W)`.
        relu: keep only what speaks for the class, as the paper does.

    Returns:
        (N, n, H, W) float32, not normalised.

    Raises:
        ValueError: an unknown layer, a layer without (N, channels, h, w) output, classes out of
            range, pixel values of another shape.
    """
    _check_pixels(pixel_values)
    with _evaluation_mode(model):
        logits, activation = _logits_from(model, pixel_values, layer)
        chosen = _chosen_classes(classes, logits)
        maps = []
        for column in range(chosen.shape[1]):
            score = logits.gather(1, chosen[:, column : column + 1]).sum()
            last = column + 1 == chosen.shape[1]
            (gradient,) = torch.autograd.grad(score, activation, retain_graph=not last)
            alpha = gradient.float().mean(dim=(2, 3), keepdim=True)  # eq. 3.1
            maps.append((alpha * activation.detach().float()).sum(dim=1))
    stacked = torch.stack(maps, dim=1)  # (N, n, h, w)
    if relu:
        stacked = F.relu(stacked)
    height, width = pixel_values.shape[2:]
    return on_picture(stacked, extent or grid_extent(layer, width), (height, width))


def on_picture(maps: Tensor, extent: GridExtent, size: tuple[int, int]) -> Tensor:
    """Maps (N, n, h, w) on a layer's grid, bilinearly on the pixels of a picture of `size`.

    What the grid spans beyond the picture is cropped away: (N, n, height, width).
    """
    height, width = size
    span = extent.stop_pixels - extent.start_pixels

    # Pixel centres in grid_sample's coordinates, which run from -1 to 1 over the grid's span. A
    # picture that is not square has the square's extent stretched like itself.
    def coordinates(side: int) -> Tensor:
        scale = width / side
        centres = (torch.arange(side, device=maps.device) + 0.5) * scale
        return 2 * (centres - extent.start_pixels) / span - 1

    rows, columns = torch.meshgrid(coordinates(height), coordinates(width), indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid.to(maps.dtype), padding_mode="border", align_corners=False)


def guided_backpropagation(
    model: nn.Module, pixel_values: Tensor, classes: Sequence[int] | Tensor | None = None
) -> Tensor:
    """Guided backpropagation (Springenberg et al., 2015): signed pictures, raw.

    Gradients of the logits with respect to the pixels, where each activation lets a gradient pass
    only where it is positive and where the activation's input was positive. For ReLU that is the
    paper's rule. ELU has slope 1 where its input is positive, so the same rule reads: ELU as if it
    were ReLU in the backward pass; its negative branch, with slope alpha exp(x), is shut.

    Args:
        model, pixel_values, classes: as in `grad_cam`. ReLU and ELU are found whether they are
            modules or functional calls; any other activation keeps its own derivative.

    Returns:
        (N, n, C, H, W) float32.

    Raises:
        ValueError: as in `grad_cam`.
    """
    _check_pixels(pixel_values)
    with _evaluation_mode(model), _without_parameter_gradients(model), _GuidedActivations():
        pixels = pixel_values.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = logits_of(model(pixels))
        chosen = _chosen_classes(classes, logits)
        pictures = []
        for column in range(chosen.shape[1]):
            score = logits.gather(1, chosen[:, column : column + 1]).sum()
            last = column + 1 == chosen.shape[1]
            (gradient,) = torch.autograd.grad(score, pixels, retain_graph=not last)
            pictures.append(gradient.float())
    return torch.stack(pictures, dim=1)


def guided_grad_cam(
    model: nn.Module,
    pixel_values: Tensor,
    layer: str = DEFAULT_LAYER,
    classes: Sequence[int] | Tensor | None = None,
    *,
    extent: GridExtent | None = None,
) -> Tensor:
    """Guided backpropagation times Grad-CAM (Selvaraju et al., 2017): (N, n, C, H, W), raw.

    Arguments and errors as in `grad_cam`.
    """
    maps = grad_cam(model, pixel_values, layer, classes, extent=extent)
    return guided_backpropagation(model, pixel_values, classes) * maps[:, :, None]


def heat_maps(
    model: nn.Module,
    pixel_values: Tensor,
    method: str = "grad_cam",
    layer: str = DEFAULT_LAYER,
    classes: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Maps by a method's name, all of one shape: (N, n, H, W) float32, at least 0, not normalised.

    Of the signed pictures of the guided methods it is the sum over channels of absolute values.

    Args:
        method: one of METHODS. Guided backpropagation takes no notice of the layer.
        model, pixel_values, layer, classes: as in `grad_cam`.

    Raises:
        ValueError: another method, and as in `grad_cam`.
    """
    if method == "grad_cam":
        return grad_cam(model, pixel_values, layer, classes)
    if method == "guided_backpropagation":
        signed = guided_backpropagation(model, pixel_values, classes)
    elif method == "guided_grad_cam":
        signed = guided_grad_cam(model, pixel_values, layer, classes)
    else:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return signed.abs().sum(dim=2)


def _logits_from(model: nn.Module, pixel_values: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Logits, with a graph that begins at the layer's output, and that output."""
    modules = dict(model.named_modules())
    if layer not in modules:
        near = difflib.get_close_matches(layer, modules, n=3, cutoff=0.0)
        raise ValueError(f"layer must be the name of a module, such as {near}, got {layer!r}")
    activations: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"layer {layer!r} must output (N, channels, h, w), got {shape}")
        activations.append(output.detach().requires_grad_())
        # Below the layer no graph is built; above it, one is. What follows gets a copy, as it may
        # write into it (in-place ReLU).
        torch.set_grad_enabled(True)
        return activations[-1].clone()

    handle = modules[layer].register_forward_hook(cut)
    try:
        with torch.no_grad(), _without_parameter_gradients(model):
            logits = logits_of(model(pixel_values))
    finally:
        handle.remove()
    if len(activations) != 1:
        raise ValueError(
            f"layer {layer!r} must run exactly once in a forward pass, ran {len(activations)} times"
        )
    return logits, activations[0]


def logits_of(output: Any) -> Tensor:
    """The logits (N, K) of what a classifier returns: a tensor, or an output that has `logits`.

    Raises:
        ValueError: another shape.
    """
    logits = output if isinstance(output, Tensor) else output.logits
    if logits.ndim != 2:
        raise ValueError(f"the model's logits must have shape (N, K), got {tuple(logits.shape)}")
    return logits


def _chosen_classes(classes: Sequence[int] | Tensor | None, logits: Tensor) -> Tensor:
    num_samples, num_classes = logits.shape
    chosen = torch.arange(num_classes) if classes is None else torch.as_tensor(classes)
    if chosen.ndim == 1:
        chosen = chosen.expand(num_samples, -1)
    if chosen.ndim != 2 or len(chosen) != num_samples or chosen.is_floating_point():
        raise ValueError(
            f"classes must be integers of shape (n,) or ({num_samples}, n), "
            f"got {chosen.dtype} of shape {tuple(chosen.shape)}"
        )
    if chosen.numel() == 0 or chosen.min() < 0 or chosen.max() >= num_classes:
        raise ValueError(f"classes must be from 0 to {num_classes - 1}, got {chosen.tolist()}")
    # A copy, as a tensor made in inference mode could not be kept for the backward pass.
    return chosen.to(logits.device, copy=True)


def _check_pixels(pixel_values: Tensor) -> None:
    if pixel_values.ndim != 4 or not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values must be float of shape (N, C, H, W), "
            f"got {pixel_values.dtype} of shape {tuple(pixel_values.shape)}"
        )


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False):
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _without_parameter_gradients(model: nn.Module) -> Iterator[None]:
    """No graph for the weights, which makes the backward passes partial."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class _GuidedActivation(torch.autograd.Function):
    """An activation whose gradient passes where it and the activation's input are positive."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, activated: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return activated

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return gradients[0] * (gradients[0] > 0) * (value > 0), None


class _GuidedActivations(TorchFunctionMode):
    """ReLU and ELU, as modules or functional calls, with the guided rule."""

    RELU = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
    ELU = (F.elu, F.elu_)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func not in self.RELU + self.ELU:
            return func(*args, **options)
        value = args[0] if args else options["input"]
        with torch.no_grad():
            if func in self.RELU:
                activated = F.relu(value)
            else:
                alpha = args[1] if len(args) > 1 else options.get("alpha", 1.0)
                activated = F.elu(value, alpha)
        return _GuidedActivation.apply(value, activated)


__all__ = [
    "DEFAULT_LAYER",
    "LAYERS",
    "METHODS",
    "GridExtent",
    "grad_cam",
    "grid_extent",
    "guided_backpropagation",
    "guided_grad_cam",
    "heat_maps",
    "logits_of",
    "on_picture",
]
