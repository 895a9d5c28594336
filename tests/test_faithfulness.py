"""Deletion, insertion and randomisation against hand-worked numbers, scipy and scikit-image."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity as skimage_ssim
from torch import Tensor, nn

from emosynthnet_hf import EmoSynthNetConfig, EmoSynthNetForImageClassification
from emosynthnet_hf.explain import (
    DEFAULT_LAYER,
    LAYERS,
    METHODS,
    grad_cam,
    guided_backpropagation,
)
from emosynthnet_hf.faithfulness import (
    CHANCE,
    area_under,
    blank_share,
    blurred_picture,
    bootstrap_interval,
    cascading_randomization,
    centred_gaussian_map,
    deletion_and_insertion,
    deletion_score,
    draw,
    explanation_name,
    failures,
    map_functions,
    markdown,
    mean_picture,
    perturbation_curves,
    pixel_ranks,
    random_maps,
    rank_correlation,
    scaled,
    similarity_by_stage,
    structural_similarity,
    summarize,
)


def linear_classifier(weights: list[float]) -> nn.Module:
    """Two classes; class 0's logit is the weighted sum of the pixels, class 1's is 0."""
    linear = nn.Linear(len(weights), 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([weights, [0.0] * len(weights)]))
    return nn.Sequential(nn.Flatten(), linear)


def test_hand_worked_deletion_and_insertion() -> None:
    # Weights ln 2, ln 4, 0, 0 on pixels of 1: class 0 has odds 8, and loses a factor of 4 with the
    # second pixel and one of 2 with the first. By the true map the odds are 8, 2, 1, 1, 1 and the
    # probabilities 8/9, 2/3, 1/2, 1/2, 1/2; by the opposite one 8/9, 8/9, 8/9, 4/5, 1/2.
    classifier = linear_classifier([np.log(2), np.log(4), 0, 0])
    ones, zeros = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    true = torch.tensor([[2.0, 3.0], [1.0, 0.0]])
    ranks = pixel_ranks(torch.stack([true, -true])[None])
    assert ranks[0, 0].tolist() == [[1, 0], [2, 3]]
    classes = torch.tensor([0])
    deletion = perturbation_curves(classifier, ones, zeros, ranks, classes, steps=4)
    want = [[8 / 9, 2 / 3, 1 / 2, 1 / 2, 1 / 2], [8 / 9, 8 / 9, 8 / 9, 4 / 5, 1 / 2]]
    torch.testing.assert_close(deletion[0], torch.tensor(want))
    # Trapezoids: a quarter of the inner points' sum and the mean of the ends.
    areas = [(sum(row[1:-1]) + (row[0] + row[-1]) / 2) / 4 for row in want]
    torch.testing.assert_close(area_under(deletion)[0], torch.tensor(areas))
    # Insertion by the true map: odds 1, 4, 8, 8, 8.
    insertion = perturbation_curves(classifier, zeros, ones, ranks[:, :1], classes, steps=4)
    torch.testing.assert_close(insertion[0, 0], torch.tensor([1 / 2, 4 / 5, 8 / 9, 8 / 9, 8 / 9]))


def test_deletion_scores_by_hand() -> None:
    # The picture above with 1 on its second pixel and -1/3 on the others: its mean is 0, so that
    # deletion leaves zeros. The logit of class 0 is ln 8 times the second pixel's value. The true
    # map takes that pixel first: 8/9, then 1/2 ever after, an area of (8/9 / 2 + 3/2 + 1/4) / 4.
    # The opposite map takes it last: (8/9 / 2 + 3 * 8/9 + 1/4) / 4.
    classifier = linear_classifier([0, np.log(8), 0, 0])
    picture = torch.full((1, 1, 2, 2), -1 / 3)
    picture[0, 0, 0, 1] = 1
    first = torch.tensor([[2.0, 3.0], [1.0, 0.0]])
    pixels, maps = picture.expand(2, 1, 2, 2), torch.stack([first, -first])
    classes = torch.tensor([0, 0])
    want = [(4 / 9 + 3 / 2 + 1 / 4) / 4, (4 / 9 + 8 / 3 + 1 / 4) / 4]
    scores, without = deletion_score(classifier, pixels, maps, classes, opponents=400, steps=4)
    torch.testing.assert_close(scores, torch.tensor(want))
    # A random map takes the pixel in any of four places alike: half-way. The standard deviation
    # over maps is (8/9 - 1/2) / 4 sqrt(5/4) = 0.109, a twentieth of it 0.0054 over 400.
    torch.testing.assert_close(without, torch.full((2,), sum(want) / 2), rtol=0, atol=0.022)
    again = deletion_score(classifier, pixels, maps, classes, opponents=400, steps=4, batch_size=7)
    torch.testing.assert_close(again, (scores, without))


def test_what_is_checked_are_the_heat_maps_of_each_picture_s_class() -> None:
    assert [explanation_name(method, "a.b") for method in METHODS] == [
        "grad_cam a.b", "guided_backpropagation", "guided_grad_cam a.b",
    ]  # fmt: skip
    functions = map_functions()
    assert list(functions) == [
        *(f"grad_cam {layer}" for layer in LAYERS),
        "guided_backpropagation",
        f"guided_grad_cam {DEFAULT_LAYER}",
    ]
    torch.manual_seed(0)
    config = EmoSynthNetConfig.from_preset(
        "quarter", image_size=32, side_widths=[[4, 4, 4], [4], [4, 4, 4]], num_labels=3
    )
    model = EmoSynthNetForImageClassification(config).eval()
    pixels, classes = torch.randn(2, config.num_channels, 32, 32), torch.tensor([2, 0])
    got = {name: function(model, pixels, classes) for name, function in functions.items()}
    for layer in LAYERS:
        want = grad_cam(model, pixels, layer)[torch.arange(2), classes]
        torch.testing.assert_close(got[f"grad_cam {layer}"], want)
    guided = guided_backpropagation(model, pixels)[torch.arange(2), classes]
    torch.testing.assert_close(got["guided_backpropagation"], guided.abs().sum(dim=1))
    product = guided.abs().sum(dim=1) * got[f"grad_cam {DEFAULT_LAYER}"]
    torch.testing.assert_close(got[f"guided_grad_cam {DEFAULT_LAYER}"], product)


def test_bfloat16_changes_curves_by_its_rounding_alone() -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    pixels, ranks = torch.randn(4, 1, 4, 4), pixel_ranks(torch.randn(4, 2, 4, 4))
    parts = (pixels, mean_picture(pixels), ranks, torch.tensor([0, 1, 2, 0]))
    want = perturbation_curves(classifier, *parts, steps=4)
    got = perturbation_curves(classifier, *parts, steps=4, dtype=torch.bfloat16)
    assert got.dtype == torch.float32
    assert 0 < (got - want).abs().max() < 0.02


def test_batches_and_model_outputs_do_not_change_the_curves() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 4))
    pixels, maps = torch.randn(5, 3, 4, 4), torch.randn(5, 2, 4, 4)
    classes = torch.tensor([0, 1, 2, 3, 0])
    parts = (pixels, mean_picture(pixels), pixel_ranks(maps), classes)
    want = perturbation_curves(classifier, *parts, steps=3)
    got = perturbation_curves(lambda x: Output(classifier(x)), *parts, steps=3, batch_size=2)
    torch.testing.assert_close(got, want)
    assert want.shape == (5, 2, 4)


def test_the_gradient_of_a_linear_model_beats_random_maps_and_nothing_beats_it() -> None:
    torch.manual_seed(0)
    weights = torch.randn(64)
    classifier = linear_classifier(weights.tolist())
    pixels = torch.randn(40, 1, 8, 8) * 0.3
    with torch.no_grad():
        classes = classifier(pixels).argmax(dim=1)

    def contribution(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
        sign = 1 - 2 * targets.float()[:, None, None]
        # What replacing a pixel by the mean costs the class explained.
        return sign * weights.reshape(8, 8) * (x - mean_picture(x))[:, 0]

    curves = deletion_and_insertion(classifier, pixels, {"true": contribution}, steps=8)
    areas = {name: area_under(both[0]) for name, both in curves.items()}
    assert (classes == 0).any() and (classes == 1).any()
    # By a rearrangement argument the true order is best in every single picture and at every step.
    for baseline in ("random", "centred_gaussian"):
        assert (areas["true"] <= areas[baseline] + 1e-6).all()
    methods = summarize(curves, {"true": {CHANCE: (np.zeros(40),) * 2, "0": (np.zeros(40),) * 2}})
    assert methods["true"]["deletion"]["against"]["random"]["passed"]


def test_ties_are_broken_at_random_and_order_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = pixel_ranks(torch.zeros(2000, 2, 2), generator)
    assert (ranks.flatten(1).sort(dim=1).values == torch.arange(4)).all()
    # Uniform on 0 to 3: mean 1.5, standard error sqrt(1.25 / 2000) = 0.025.
    assert (ranks.float().mean(dim=0) - 1.5).abs().max() < 0.1
    assert (pixel_ranks(torch.tensor([[0.0, 5.0, 0.0]]), generator)[0, 1]) == 0


def test_a_map_that_marks_nothing_fares_as_a_random_map_does() -> None:
    generator = torch.Generator().manual_seed(0)
    empty = pixel_ranks(torch.zeros(400, 48, 48), generator).float()
    random = pixel_ranks(random_maps(400, (48, 48), generator=generator)).float()

    def roughness(ranks: Tensor) -> float:
        return float((ranks[:, 1:] - ranks[:, :-1]).abs().mean())

    # Order of single pixels would give the mean distance of two numbers in 0..n - 1, n / 3 = 768.
    assert roughness(empty) == pytest.approx(roughness(random), rel=0.05)
    assert roughness(empty) < 200


def test_blank_maps_are_counted() -> None:
    def marks_some(_: nn.Module, pixels: Tensor, __: Tensor) -> Tensor:
        return torch.where(pixels[:, 0].amax(dim=(1, 2), keepdim=True) > 2, pixels[:, 0], 1.0)

    pixels = torch.tensor([1.0, 3.0, 0.0, 3.0, 0.5])[:, None, None, None].repeat(1, 1, 2, 2)
    pixels[:, :, 0] = 0
    shares = blank_share(linear_classifier([0.1] * 4), pixels, {"some": marks_some}, batch_size=2)
    assert shares == {"some": 0.6}


def test_pictures_without_information() -> None:
    pixels = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(mean_picture(pixels).mean(dim=(2, 3)), pixels.mean(dim=(2, 3)))
    assert mean_picture(pixels).std(dim=(2, 3)).max() < 1e-6
    want = gaussian_filter(pixels.numpy(), (0, 0, 1.5, 1.5), mode="nearest", truncate=3)
    np.testing.assert_allclose(blurred_picture(pixels, 1.5).numpy(), want, atol=1e-5)


def test_maps_without_knowledge() -> None:
    gaussian = centred_gaussian_map((8, 8))
    torch.testing.assert_close(gaussian, gaussian.flip(0))
    # Pixel centre (0.5, 0.5) of 8, a distance of sqrt(2) 3.5/8 from the centre, sigma 1/4.
    assert gaussian[0, 0] == pytest.approx(np.exp(-((3.5 / 8) ** 2) * 16))
    first, again = (
        random_maps(2, (8, 8), generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first.shape == (2, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    intervals = [bootstrap_interval(generator.normal(3, 1, 50), resamples=400) for _ in range(200)]
    covered = np.mean([low <= 3 <= high for low, high in intervals])
    # 0.95 with a standard error of 0.015, and a little less as the percentile bootstrap is.
    assert 0.89 <= covered <= 0.99
    widths = np.mean([high - low for low, high in intervals])
    assert widths == pytest.approx(2 * 1.96 / np.sqrt(50), rel=0.05)
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        bootstrap_interval(np.ones(1))


def test_similarities_against_scipy_and_scikit_image() -> None:
    generator = np.random.default_rng(0)
    first = np.maximum(generator.normal(size=(3, 12, 12)), 0)  # with ties at 0
    second = np.maximum(first + generator.normal(size=first.shape), 0)
    want = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), want)
    assert rank_correlation(np.ones((1, 4, 4)), first[:1, :4, :4]) == [0]
    one, other = scaled(torch.tensor(first)), scaled(torch.tensor(second))
    ssim = [
        skimage_ssim(a, b, win_size=7, data_range=1, use_sample_covariance=False)
        for a, b in zip(one.numpy(), other.numpy(), strict=True)
    ]
    np.testing.assert_allclose(structural_similarity(one, other).numpy(), ssim, rtol=1e-6)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.upper = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.upper(self.norm(self.lower(x)).relu().mean(dim=(2, 3)))
        return logits


def test_randomisation_is_cumulative_on_a_copy_and_leaves_the_global_generator() -> None:
    torch.manual_seed(3)
    model = Toy().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    changed = []
    for name, copy in cascading_randomization(model, ["upper", "lower"]):
        different = [
            key for key, value in copy.state_dict().items() if not torch.equal(value, before[key])
        ]
        changed.append((name, sorted(different)))
    upper = ["upper.bias", "upper.weight"]
    assert changed == [("upper", upper), ("lower", ["lower.bias", "lower.weight", *upper])]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="got 'middle'"):
        next(cascading_randomization(model, ["middle"]))


def test_the_randomisation_check_on_maps_whose_answer_is_known() -> None:
    torch.manual_seed(0)
    model, pixels = Toy().eval(), torch.randn(12, 1, 16, 16)

    def edges(network: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
        return x[:, 0].abs()  # of the picture alone: no weight matters

    def weights_only(network: Any, x: Tensor, classes: Tensor) -> Tensor:
        seed = int(1e6 * network.upper.weight.abs().sum().item())
        return torch.rand(x.shape[0], 16, 16, generator=torch.Generator().manual_seed(seed))

    methods = {"edges": edges, "weights": weights_only}
    similarity = similarity_by_stage(model, pixels, methods, ["upper", "lower"], batch_size=5)
    assert list(similarity["edges"]) == [CHANCE, "upper", "lower"]
    np.testing.assert_allclose(similarity["edges"]["lower"][0], 1)
    np.testing.assert_allclose(similarity["edges"]["lower"][1], 1)
    assert abs(similarity["weights"]["upper"][0].mean()) < 0.1
    curves = {
        name: (torch.rand(12, 5), torch.rand(12, 5))
        for name in (*methods, "random", "centred_gaussian")
    }
    found = failures(summarize(curves, similarity))
    assert any("upper and lower are random numbers" in line for line in found["edges"])
    assert not any("random numbers" in line for line in found["weights"])


def test_the_figure_is_drawn(tmp_path: Any) -> None:
    names = list(map_functions())
    stages = {stage: (np.random.default_rng(0).random(4),) * 2 for stage in (CHANCE, "a.b", "c")}
    curves = {
        name: (torch.rand(4, 4), torch.rand(4, 4))
        for name in (*names, "random", "centred_gaussian")
    }
    result = {
        "checkpoint": "toy",
        "dataset": "noise",
        "split": "train",
        "num_images": 4,
        "num_randomization_images": 4,
        "steps": 3,
        "blank_share": dict.fromkeys(names, 0.25),
        "methods": summarize(curves, dict.fromkeys(names, stages)),
    }
    result |= {"failures": failures(result["methods"]), "command": "python x"}
    page = markdown(result)
    first = result["methods"][names[0]]
    area, likeness = first["deletion"]["area"], first["randomization"]["stages"]["c"]
    assert f"| Grad-CAM block3 | {area['mean']:.3f} ({area['low']:.3f} to " in page
    assert "down to a.b | down to c | another picture |" in page
    assert page.count(" | 25.0% |") == len(names)
    assert f"{likeness['rank_correlation']['mean']:.3f} (" in page
    for sentences in result["failures"].values():
        assert all(sentence in page for sentence in sentences)
    draw(result, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 0}, "steps must be at least 1, got 0"), ({"classes": torch.zeros(3)}, r"\(3,\)")],
)
def test_errors_say_what_was_got(change: dict[str, Any], message: str) -> None:
    x = torch.zeros(2, 1, 4, 4)
    arguments: dict[str, Any] = {"classes": torch.zeros(2, dtype=torch.int64), "steps": 2}
    with pytest.raises(ValueError, match=message):
        perturbation_curves(
            linear_classifier([0.0] * 16), x, x, pixel_ranks(x), **(arguments | change)
        )
