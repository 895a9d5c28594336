"""Explanations against hand-worked numbers, closed forms, captum and planted patches."""

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum.attr import GuidedBackprop, GuidedGradCam, LayerGradCam
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from emosynthnet_hf import (
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    modeling_emosynthnet,
)
from emosynthnet_hf.explain import (
    DEFAULT_LAYER,
    LAYERS,
    METHODS,
    GridExtent,
    grad_cam,
    grid_extent,
    guided_backpropagation,
    guided_grad_cam,
    heat_maps,
    on_picture,
)
from tests.tensor_output import Logits

WIDTHS = {
    "analysis_widths": [[4, 6, 6, 6], [8] * 4, [8] * 4, [10] * 3],
    "side_widths": [[4, 4, 4], [4], [4, 6, 6]],
    "synthesis_widths": [8, 6],
    "dense_widths": [12, 8],
}
# Half a cell of the finest grid.
TOLERANCE_PIXELS = 4


def emosynthnet(image_size: int = 48, num_labels: int = 3) -> EmoSynthNetForImageClassification:
    torch.manual_seed(0)
    config = EmoSynthNetConfig(image_size=image_size, num_labels=num_labels, **WIDTHS)
    return EmoSynthNetForImageClassification(config).eval()


class Tiny(nn.Module):
    """1x1 convolution to two channels, in-place ReLU, means, a linear layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.linear.weight.copy_(torch.tensor([[2.0, 4.0], [-1.0, 3.0]]))

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.linear(self.relu(self.conv(x)).mean(dim=(2, 3)))
        return pooled


def test_hand_worked_grad_cam() -> None:
    # Input [[1, -2], [3, 0]]. Channel 0 is x, channel 1 is -x; through ReLU and the mean of four
    # cells, class 0 is 2 mean(relu x) + 4 mean(relu -x). Its gradients at the convolution's output
    # are 2/4 where x > 0 (two of four cells) and 4/4 where x < 0 (one of four), so
    # alpha = (2 * 0.5 / 4, 1 * 1 / 4) = (0.25, 0.25) and the map is relu(0.25 x - 0.25 x) = 0.
    # Class 1: alpha = (2 * -0.25 / 4, 1 * 0.75 / 4) = (-0.125, 0.1875) and the map is
    # -0.125 x - 0.1875 x = -0.3125 x, that is 0.625 where x = -2 and below 0 elsewhere.
    x = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).view(1, 1, 2, 2)
    maps = grad_cam(Tiny(), x, "conv")
    torch.testing.assert_close(maps[0, 0], torch.zeros(2, 2))
    torch.testing.assert_close(maps[0, 1], torch.tensor([[0.0, 0.625], [0.0, 0.0]]))
    raw = grad_cam(Tiny(), x, "conv", classes=[1], relu=False)
    torch.testing.assert_close(raw[0, 0], -0.3125 * x[0, 0])


def test_hand_worked_guided_backpropagation() -> None:
    # Class 0: cells with x > 0 pass 2/4 through channel 0; where x < 0, channel 1 passes 4/4 and
    # its weight -1 turns the sign. Class 1: channel 0's gradient is negative and is stopped.
    x = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).view(1, 1, 2, 2)
    pictures = guided_backpropagation(Tiny(), x)
    torch.testing.assert_close(pictures[0, 0, 0], torch.tensor([[0.5, -1.0], [0.5, 0.0]]))
    torch.testing.assert_close(pictures[0, 1, 0], torch.tensor([[0.0, -0.75], [0.0, 0.0]]))


def test_elu_is_read_as_relu_in_the_backward_pass() -> None:
    linear = nn.Linear(1, 1, bias=False)
    nn.init.ones_(linear.weight)
    network = nn.Sequential(nn.ELU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), linear)
    x = torch.tensor([[-1.0, 2.0]]).view(1, 1, 1, 2)
    picture = guided_backpropagation(network, x)
    torch.testing.assert_close(picture[0, 0, 0], torch.tensor([[0.0, 0.5]]))


def test_linear_network_in_closed_form() -> None:
    # logits = W mean(A), so alpha is W / cells and the map W A / cells.
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 4)
    network = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).double()
    x = torch.randn(2, 3, 6, 6).double()
    want = torch.einsum("kc,nchw->nkhw", linear.weight, conv(x)) / 36
    maps = grad_cam(network, x, "0", relu=False)
    torch.testing.assert_close(maps.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS[:2])
def test_captum_agrees_on_emosynthnet(layer: str) -> None:
    model = emosynthnet().double()
    x = torch.randn(2, 1, 48, 48).double()
    maps = grad_cam(model, x, layer)
    module = model.get_submodule(layer)
    oracle = LayerGradCam(lambda pixels: model(pixels).logits, module)
    for label in range(3):
        want = oracle.attribute(x, target=label, relu_attributions=True)
        want = nn.functional.interpolate(want, (48, 48), mode="bilinear", align_corners=False)
        assert want.max() > 0
        torch.testing.assert_close(maps[:, label].double(), want[:, 0], rtol=1e-4, atol=1e-9)


def resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    return ResNetForImageClassification(config).eval()


def test_captum_agrees_on_a_resnet() -> None:
    model, x = resnet(), torch.randn(2, 3, 32, 32)
    layer = "resnet.encoder.stages.1"
    maps = grad_cam(model, x, layer, classes=[2], extent=GridExtent(0, 32))
    oracle = LayerGradCam(lambda pixels: model(pixels).logits, model.get_submodule(layer))
    want = oracle.attribute(x, target=2, relu_attributions=True)
    want = nn.functional.interpolate(want, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps, want, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require")
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_captum_agrees_on_guided_backpropagation() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 12 * 12, 5),
    )
    x = torch.randn(2, 1, 16, 16)
    pictures = guided_backpropagation(network, x)
    for label in range(5):
        want = GuidedBackprop(network).attribute(x, target=label)
        assert want.abs().max() > 0
        torch.testing.assert_close(pictures[:, label], want)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require")
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_captum_agrees_on_the_guided_methods_on_a_resnet() -> None:
    model, x = resnet(), torch.randn(2, 3, 32, 32)
    layer = "resnet.encoder.stages.1"
    network = Logits(model)
    module = model.get_submodule(layer)
    pictures, products = guided_backpropagation(model, x), guided_grad_cam(model, x, layer)
    for label in range(4):
        want = GuidedBackprop(network).attribute(x, target=label)
        assert want.abs().max() > 0
        torch.testing.assert_close(pictures[:, label], want, rtol=1e-4, atol=1e-7)
        want = GuidedGradCam(network, module).attribute(
            x, target=label, interpolate_mode="bilinear"
        )
        torch.testing.assert_close(products[:, label], want, rtol=1e-4, atol=1e-8)


class Rewritten(Logits):
    """EmoSynthNet whose ReLUs are modules and whose ELUs are ReLU modules plus a constant.

    So captum, which has the guided rule for ReLU modules alone, reads ELU as `explain` says.
    """

    def __init__(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(model)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(64))
        self.unused: list[nn.Module] = []
        relu, elu = nn.functional.relu, nn.functional.elu

        def relu_module(value: Tensor) -> Tensor:
            activated: Tensor = self.unused.pop()(value)
            return activated

        def elu_as_relu(value: Tensor) -> Tensor:
            return relu_module(value) + (elu(value) - relu(value)).detach()

        changed = vars(nn.functional) | {"relu": relu_module, "elu": elu_as_relu}
        monkeypatch.setattr(modeling_emosynthnet, "F", SimpleNamespace(**changed))

    def forward(self, pixel_values: Tensor) -> Tensor:
        self.unused = list(self.relus)
        return super().forward(pixel_values)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require")
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_captum_agrees_on_guided_backpropagation_through_our_elu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = emosynthnet().double(), torch.randn(2, 1, 48, 48).double()
    pictures = guided_backpropagation(model, x)
    with torch.no_grad():
        logits = model(x).logits
    network = Rewritten(model, monkeypatch).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x), logits)
    for label in range(3):
        want = GuidedBackprop(network).attribute(x, target=label)
        assert want.abs().max() > 0
        torch.testing.assert_close(pictures[:, label].double(), want, rtol=1e-4, atol=1e-12)


def test_guided_grad_cam_is_the_product() -> None:
    model, x = emosynthnet(), torch.randn(2, 1, 48, 48)
    want = guided_backpropagation(model, x) * grad_cam(model, x)[:, :, None]
    torch.testing.assert_close(guided_grad_cam(model, x), want)


def test_hand_worked_heat_maps() -> None:
    # The pictures and maps of the hand-worked tests above. Of class 1 Grad-CAM is 0.625 and guided
    # backpropagation -0.75 in the cell of -2, so the product is -0.46875; both are 0 elsewhere.
    # Of class 0 Grad-CAM is 0, and guided backpropagation 0.5, -1, 0.5, 0.
    x = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).view(1, 1, 2, 2)
    want = {
        "grad_cam": [[[0, 0], [0, 0]], [[0, 0.625], [0, 0]]],
        "guided_backpropagation": [[[0.5, 1], [0.5, 0]], [[0, 0.75], [0, 0]]],
        "guided_grad_cam": [[[0, 0], [0, 0]], [[0, 0.46875], [0, 0]]],
    }
    assert tuple(want) == METHODS
    for method, maps in want.items():
        got = heat_maps(Tiny(), x, method, "conv")
        torch.testing.assert_close(got, torch.tensor([maps], dtype=torch.float32))
        one = heat_maps(Tiny(), x, method, "conv", classes=[1])
        torch.testing.assert_close(one, got[:, 1:])


def test_heat_maps_of_colours_are_sums_of_magnitudes() -> None:
    model, x = resnet(), torch.randn(2, 3, 32, 32)
    layer = "resnet.encoder.stages.0"
    torch.testing.assert_close(heat_maps(model, x, layer=layer), grad_cam(model, x, layer))
    for method, signed in (
        ("guided_backpropagation", guided_backpropagation(model, x)),
        ("guided_grad_cam", guided_grad_cam(model, x, layer)),
    ):
        got = heat_maps(model, x, method, layer)
        red, green, blue = signed.unbind(dim=2)
        torch.testing.assert_close(got, red.abs() + green.abs() + blue.abs())
    with pytest.raises(ValueError, match=r"grad_cam, guided_backpropagation, .*, got 'lime'"):
        heat_maps(model, x, "lime", layer)


def test_each_picture_may_have_its_own_classes() -> None:
    model, x = emosynthnet(), torch.randn(2, 1, 48, 48)
    everything = grad_cam(model, x)
    chosen = grad_cam(model, x, classes=torch.tensor([[2, 0], [1, 1]]))
    torch.testing.assert_close(chosen[0], everything[0, [2, 0]])
    torch.testing.assert_close(chosen[1], everything[1, [1, 1]])
    pictures = guided_backpropagation(model, x)
    chosen = guided_backpropagation(model, x, classes=torch.tensor([[2], [1]]))
    torch.testing.assert_close(chosen[:, 0], torch.stack([pictures[0, 2], pictures[1, 1]]))


def test_a_batch_is_its_pictures() -> None:
    model, x = emosynthnet(), torch.randn(3, 1, 48, 48)
    together = grad_cam(model, x)
    for number in range(3):
        alone = grad_cam(model, x[number : number + 1])
        torch.testing.assert_close(together[number], alone[0], rtol=1e-3, atol=1e-7)


# A network that passes the picture on, cell by cell: its maps are the pooled picture itself.
@pytest.fixture(params=[48, 64])
def passing(request: pytest.FixtureRequest) -> EmoSynthNetForImageClassification:
    model = emosynthnet(image_size=request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                centre = module.kernel_size[0] // 2
                inputs = module.in_channels
                if name == "emosynthnet.block5b.conv":
                    inputs = 8  # block 5a's channels; those of the side path and the skip stay 0
                    module.weight[:inputs, :, centre, centre] = 1 / inputs
                else:
                    module.weight[:, :, centre, centre] = 1 / inputs
            elif isinstance(module, nn.Linear):
                module.weight.fill_(1 / module.in_features)
    return model


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 2), (1, 2), (2, 1)])
def test_a_patch_is_found_where_it_is(
    passing: EmoSynthNetForImageClassification, layer: str, row: int, column: int
) -> None:
    side = passing.config.image_size
    x = torch.zeros(1, 1, side, side)
    x[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 1
    heatmap = grad_cam(passing, x, layer, classes=[0])[0, 0]
    assert heatmap.max() > 0
    peak = torch.nonzero(heatmap >= 0.99 * heatmap.max()).float().mean(dim=0)
    want = torch.tensor([16 * row + 7.5, 16 * column + 7.5])
    assert (peak - want).abs().max() <= TOLERANCE_PIXELS, (
        f"patch at {want.tolist()}, peak at {peak.tolist()}"
    )


def test_block_5_stretched_over_the_picture_would_miss(
    passing: EmoSynthNetForImageClassification,
) -> None:
    side = passing.config.image_size
    x = torch.zeros(1, 1, side, side)
    x[..., :16, :16] = 1
    for layer in LAYERS[2:]:
        stretched = grad_cam(passing, x, layer, classes=[0], extent=GridExtent(0, side))[0, 0]
        peak = torch.nonzero(stretched >= 0.99 * stretched.max()).float().mean(dim=0)
        assert (peak - 7.5).abs().min() > TOLERANCE_PIXELS


def test_extents_by_hand() -> None:
    assert grid_extent("emosynthnet.block5b", 48) == GridExtent(-24, 72)
    assert grid_extent("emosynthnet.block5a", 48) == GridExtent(-16, 64)
    assert grid_extent("emosynthnet.block4.convs.2", 48) == GridExtent(0, 48)
    assert grid_extent("module.emosynthnet.block5b.conv", 32) == GridExtent(-24, 56)
    assert grid_extent("other.block5a", 48) == GridExtent(0, 48)


def test_a_map_on_the_picture_is_bilinear_resizing() -> None:
    maps = torch.rand(2, 3, 6, 6)
    want = nn.functional.interpolate(maps, (48, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(on_picture(maps, GridExtent(0, 48), (48, 48)), want)
    # A picture that is not square, with a grid that is not either.
    maps = torch.rand(2, 3, 6, 4)
    want = nn.functional.interpolate(maps, (48, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(on_picture(maps, GridExtent(0, 32), (48, 32)), want)


def state_of(model: nn.Module) -> tuple[Any, ...]:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [
            None if parameter.grad is None else parameter.grad.clone()
            for parameter in model.parameters()
        ],
        [len(module._forward_hooks) for module in model.modules()],
        [len(module._backward_hooks) for module in model.modules()],
        torch.is_grad_enabled(),
    )


def assert_unchanged(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    for old, new in zip(before[2], after[2], strict=True):
        assert (old is None) == (new is None)
        assert old is None or torch.equal(old, new)
    assert before[:2] == after[:2]
    assert before[3:] == after[3:]


def mixed_state() -> EmoSynthNetForImageClassification:
    model = emosynthnet()
    model.train()
    model.emosynthnet.block2.eval()
    next(model.parameters()).requires_grad_(False)
    model(torch.randn(2, 1, 48, 48), labels=torch.tensor([0, 1])).loss.backward()
    return model


def test_the_model_is_left_as_it_was() -> None:
    model = mixed_state()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = state_of(model)
    guided_grad_cam(model, torch.randn(1, 1, 48, 48))
    assert_unchanged(before, state_of(model))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])


@pytest.mark.parametrize("function", [grad_cam, guided_backpropagation, guided_grad_cam])
def test_the_model_is_left_as_it_was_after_an_exception(function: Any) -> None:
    model = mixed_state()
    before = state_of(model)
    with pytest.raises(ValueError, match="classes must be from 0 to 2, got"):
        function(model, torch.randn(1, 1, 48, 48), classes=[3])

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    handle = model.classifier.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        function(model, torch.randn(1, 1, 48, 48))
    handle.remove()
    assert_unchanged(before, state_of(model))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_behind_by_a_thousand_calls(method: str) -> None:
    model, x = Tiny(), torch.randn(1, 1, 4, 4)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    heat_maps(model, x, method, "conv")
    before, hooks = tensors(), state_of(model)
    for _ in range(1000):
        heat_maps(model, x, method, "conv")
    assert tensors() <= before
    assert_unchanged(hooks, state_of(model))


def test_no_weight_gets_a_gradient_and_the_backward_pass_stops_at_the_layer() -> None:
    model, x = emosynthnet(), torch.randn(1, 1, 48, 48)
    reached: list[str] = []
    for name in ("block1", "block4"):
        block = model.emosynthnet.get_submodule(name)
        block.register_full_backward_hook(lambda *_, name=name: reached.append(name))
    grad_cam(model, x, "emosynthnet.block4.convs.2")
    assert "block1" not in reached
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_is_close_to_float32() -> None:
    model, x = emosynthnet(), torch.randn(2, 1, 48, 48)
    want = grad_cam(model, x)
    got = grad_cam(model.to(torch.bfloat16), x.to(torch.bfloat16))
    assert got.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1]
    assert correlation > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_pixels_into_float32_weights(method: str) -> None:
    # EmoSynthNet casts pixels to the weights' dtype: the maps are those of the rounded pixels. The
    # gradients of the guided methods are rounded once more, on their way to the pixels.
    model, x = emosynthnet(), torch.randn(2, 1, 48, 48).to(torch.bfloat16)
    got = heat_maps(model, x, method)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, heat_maps(model, x.float(), method), rtol=2**-8, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_caller_may_have_gradients_off(method: str, around: Any) -> None:
    model, x = emosynthnet(), torch.randn(2, 1, 48, 48)
    classes = torch.tensor([[0], [2]])
    want = heat_maps(model, x, method, DEFAULT_LAYER, classes)
    with around():
        got = heat_maps(model, x.clone(), method, DEFAULT_LAYER, classes.clone())
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(got, want)


def test_guided_backpropagation_takes_bfloat16() -> None:
    model, x = emosynthnet(), torch.randn(2, 1, 48, 48)
    want = guided_backpropagation(model, x)
    got = guided_backpropagation(model.to(torch.bfloat16), x.to(torch.bfloat16))
    assert got.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1]
    assert correlation > 0.97


def test_the_margin_of_training_does_not_reach_the_maps() -> None:
    x = torch.randn(1, 1, 48, 48)
    maps = []
    for margin in ("none", "mam"):
        torch.manual_seed(0)
        config = EmoSynthNetConfig(image_size=48, num_labels=3, margin=margin, **WIDTHS)
        maps.append(grad_cam(EmoSynthNetForImageClassification(config), x, relu=False))
    assert maps[0].abs().max() > 0
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0)


def test_one_forward_pass_and_a_backward_pass_a_class() -> None:
    model, x = emosynthnet(num_labels=5), torch.randn(2, 1, 48, 48)
    forward: list[int] = []
    backward: list[int] = []
    model.classifier.register_forward_hook(lambda *_: forward.append(1))
    model.classifier.register_full_backward_hook(lambda *_: backward.append(1))
    assert grad_cam(model, x).shape == (2, 5, 48, 48)
    assert (len(forward), len(backward)) == (1, 5)


@pytest.mark.parametrize(
    ("layer", "classes", "shape", "message"),
    [
        ("emosynthnet.block9", None, (1, 1, 48, 48), r"such as .*emosynthnet\.block\d.*, got"),
        ("classifier", None, (1, 1, 48, 48), r"must output \(N, channels, h, w\), got \(1, 3\)"),
        ("emosynthnet.block4", [-1], (1, 1, 48, 48), r"from 0 to 2, got \[\[-1\]\]"),
        ("emosynthnet.block4", [0.5], (1, 1, 48, 48), "must be integers"),
        ("emosynthnet.block4", [], (1, 1, 48, 48), "classes must be"),
        ("emosynthnet.block4", [[0], [1]], (1, 1, 48, 48), r"\(1, n\), got .*\(2, 1\)"),
        ("emosynthnet.block4", None, (1, 48, 48), r"shape \(N, C, H, W\), got .*\(1, 48, 48\)"),
    ],
)
def test_errors_say_what_was_got(
    layer: str, classes: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        grad_cam(emosynthnet(), torch.zeros(shape), layer, classes)
