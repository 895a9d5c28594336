"""The laboratory's margins and losses against `reference.losses`, pytorch-metric-learning, closed
forms, gradcheck and torch's own."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as metric_learning
from torch import Tensor

from emosynthnet_hf import EmoSynthNetConfig
from emosynthnet_hf.configuration_emosynthnet import CLASSIFIER_OF_MARGIN, LOSSES, MARGINS
from emosynthnet_hf.losses import (
    additive_angle,
    additive_cosine,
    double_additive_cosine,
    dynamic_additive,
    multiplicative_angle,
    soft_margin,
)
from emosynthnet_hf.losses.multiplicative_angle import psi
from emosynthnet_hf.margin_emosynthnet import (
    LOSS_FUNCTIONS,
    MARGIN_FUNCTIONS,
    MarginLoss,
    cross_entropy,
)
from emosynthnet_hf.modeling_emosynthnet import EmoSynthNetClassifier
from tests.reference import losses as reference
from tests.reference import margins as flat_reference

ANGULAR = ["am", "double_am", "aam", "dam", "l", "a"]
LABORATORY_MARGINS = ["sm", *ANGULAR]
LABORATORY_LOSSES = [*reference.SAMPLES, "sample_ratio"]
COSTS: dict[str, Any] = {
    "false_negative_costs": [1.0, 2.0, 0.5, 0.0, 3.0],
    "false_positive_costs": [[9.0, 1.0, 0.0, 2.0, 0.5]] * 5,
}
# Arguments other than the defaults.
MARGIN_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LABORATORY_MARGINS),
    ("sm", {"margin": 2.0}),
    ("am", {"margin": 0.9}),
    ("double_am", {"margin": 0.4}),
    ("aam", {"margin": 1.3}),
    ("dam", {"margin": 0.5, "control": 0.7}),
    ("l", {"margin": 2, "annealing_start": 0.0, "annealing_end": 0.0}),
    ("a", {"margin": 3, "annealing_start": 10.0, "annealing_rate": 4.0, "annealing_end": 0.0}),
]
LOSS_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LABORATORY_LOSSES),
    ("focal", {"gamma": 0.5}),
    ("gce", {"q": 1.0}),
    ("gce", {"q": 0.05}),
    ("truncated_gce", {"q": 0.3, "threshold": 0.25}),
    ("real_world_ce", COSTS),
    ("real_world_ce", {"false_negative_costs": 2.0, "false_positive_costs": 0.25}),
    ("mixed_ce", {"maximum": 1.0}),
    ("active_passive", {"alpha": 2.0, "beta": 0.3, "log_zero": -2.0}),
    ("dwb", {"class_counts": [10, 200, 1, 0, 37]}),
    ("symmetric_ce", {"alpha": 1.5, "beta": 0.2, "log_zero": -7.0}),
    ("sample_ratio", {"noise_ratio": 0.6, "alpha": 0.5}),
]
PROGRESS = 0.4
WITH_PROGRESS = {"l", "a", "mixed_ce", "sample_ratio"}


def scheduled(name: str, progress: float = PROGRESS) -> dict[str, float]:
    return {"progress": progress} if name in WITH_PROGRESS else {}


def batch(
    samples: int, classes: int, *, soft: bool = False, seed: int = 0, largest: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """float64: cosines within +-largest, their norms (N, K), and targets."""
    generator = torch.Generator().manual_seed(seed)
    cosines = largest * (2 * torch.rand(samples, classes, generator=generator).double() - 1)
    norms = 1 + 9 * torch.rand(samples, classes, generator=generator).double()
    labels = torch.randint(0, classes, (samples,), generator=generator)
    targets = F.one_hot(labels, classes).double()
    if soft:
        votes = torch.randint(0, 5, (samples, classes), generator=generator).double()
        votes[:, 0] += 1
        targets = votes / votes.sum(dim=1, keepdim=True)
    return cosines, norms, targets


def log_probabilities(samples: int, classes: int, *, soft: bool = False) -> tuple[Tensor, Tensor]:
    cosines, norms, targets = batch(samples, classes, soft=soft, seed=1)
    return (cosines * norms).log_softmax(dim=1), targets


def norms_for(margin: str, norms: Tensor) -> Tensor:
    """(N, K) -> the shape that the margin's classifier gives."""
    kind = CLASSIFIER_OF_MARGIN.get(margin)
    return norms[:1, :1] if kind == "cosine" else norms[:, :1] if kind == "unit_weights" else norms


def apply_margin(
    name: str, logits: Tensor, targets: Tensor, norms: Tensor, **kwargs: Any
) -> Tensor:
    passed = {} if name == "sm" else {"norms": norms}
    return MARGIN_FUNCTIONS[name](logits, targets, **passed, **kwargs)


def reference_margin(
    name: str, logits: Tensor, targets: Tensor, norms: Tensor, **kwargs: Any
) -> Tensor:
    rows = reference.margin_log_probabilities(
        name, logits.tolist(), targets.tolist(), norms.expand_as(logits).tolist(), **kwargs
    )
    return torch.tensor(rows, dtype=torch.float64)


def test_nothing_is_left_out() -> None:
    assert set(MARGIN_FUNCTIONS) == set(MARGINS)
    assert set(LOSS_FUNCTIONS) == set(LOSSES)
    assert set(MARGINS) == {*flat_reference.SAMPLES, *LABORATORY_MARGINS}
    assert set(LOSSES) == {*flat_reference.LOSSES, *LABORATORY_LOSSES}


# --- margins: agreement -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kwargs"), MARGIN_SETTINGS)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (1, 7), (40, 5), (2, 1000)])
def test_margin_agrees_with_oracle(
    name: str, kwargs: dict[str, Any], samples: int, classes: int, soft: bool
) -> None:
    cosines, norms, targets = batch(samples, classes, soft=soft)
    norms, kwargs = norms_for(name, norms), kwargs | scheduled(name)
    got = apply_margin(name, cosines * norms, targets, norms, **kwargs)
    want = reference_margin(name, cosines * norms, targets, norms, **kwargs)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "theirs", "kwargs", "their_kwargs"),
    [
        ("am", metric_learning.CosFaceLoss, {"margin": 0.35}, {"margin": 0.35, "scale": 30}),
        (
            "aam",
            metric_learning.ArcFaceLoss,
            {"margin": 0.5},
            {"margin": math.degrees(0.5), "scale": 30},
        ),
        (
            "aam",
            metric_learning.ArcFaceLoss,
            {"margin": 1.2},
            {"margin": math.degrees(1.2), "scale": 30},
        ),
        *(
            (
                "l",
                metric_learning.LargeMarginSoftmaxLoss,
                {"margin": m, "annealing_start": 0.0, "annealing_end": 0.0},
                {"margin": m},
            )
            for m in (1, 2, 3, 4)
        ),
        (
            "a",
            metric_learning.SphereFaceLoss,
            {"margin": 4, "annealing_start": 0.0, "annealing_end": 0.0},
            {"margin": 4},
        ),
    ],
)
def test_margin_agrees_with_pytorch_metric_learning(
    name: str, theirs: Any, kwargs: dict[str, Any], their_kwargs: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    features = torch.randn(64, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (64,))
    config = EmoSynthNetConfig(
        margin=name,
        id2label=dict(enumerate("abcde")),
        label2id={letter: number for number, letter in enumerate("abcde")},
    )
    classifier = EmoSynthNetClassifier(config, 6).double()
    peer = theirs(num_classes=5, embedding_size=6, **their_kwargs).double()
    peer.W.data = classifier.weight.data.T.clone()
    loss = MarginLoss(5, name, "ce", margin_kwargs=kwargs)
    loss.progress = 1.0
    ours = loss(classifier(features), labels, norms=classifier.norms(features))
    want = peer(features, labels)
    torch.testing.assert_close(ours, want, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(value, features)[0] for value in (ours, want)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


# --- margins: limits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *((name, {"margin": 0.0}) for name in ("sm", "am", "double_am", "aam", "dam")),
        *((name, {"margin": 1}) for name in ("l", "a")),
        *((name, {"annealing_end": 1e12}) for name in ("l", "a")),
    ],
)
def test_without_a_margin_it_is_plain_softmax(name: str, kwargs: dict[str, Any]) -> None:
    cosines, norms, targets = batch(20, 5)
    logits = cosines * norms
    got = apply_margin(name, logits, targets, norms, **kwargs, **scheduled(name))
    torch.testing.assert_close(got, logits.log_softmax(dim=1), rtol=1e-9, atol=1e-9)


def test_double_additive_margin_is_am_with_twice_the_margin() -> None:
    cosines, norms, targets = batch(20, 5)
    scale = norms[:1, :1]
    want = reference_margin("double_am", cosines * scale, targets, scale, margin=0.3)
    for got in (
        additive_cosine(cosines * scale, targets, norms=scale, margin=0.6),
        double_additive_cosine(cosines * scale, targets, norms=scale, margin=0.3),
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
def test_psi_falls_from_1_in_equal_steps_of_2(margin: int) -> None:
    theta = torch.linspace(0, math.pi, 4001, dtype=torch.float64)
    values = psi(theta.cos(), margin)
    assert (values.diff() <= 1e-12).all()
    # At k pi / m cos(m theta) is (-1)^k, so psi is 1 - 2k.
    corners = torch.arange(margin + 1, dtype=torch.float64)
    got = psi((corners * math.pi / margin).cos(), margin)
    torch.testing.assert_close(got, 1 - 2 * corners, rtol=0, atol=1e-9)


@pytest.mark.parametrize("progress", [0.0, 0.01, 0.5, 1.0])
def test_annealing_is_spherefaces(progress: float) -> None:
    # lambda = max(5, 1000 / (1 + 0.12 iteration)) over 28,000 iterations
    weight = max(5.0, 1000 / (1 + 0.12 * 28_000 * progress))
    cosine = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    norms = torch.full((1, 1), 8.0, dtype=torch.float64)
    got = multiplicative_angle(8 * cosine, target, norms=norms, progress=progress)
    theta = math.acos(0.3)  # between pi/4 and pi/2, so k = 1
    own = 8 * (weight * 0.3 + (-math.cos(4 * theta) - 2)) / (1 + weight)
    want = own - math.log(math.exp(own) + math.exp(-1.6))
    assert got[0, 0].item() == pytest.approx(want, abs=1e-10)


def test_dams_margin_is_larger_for_what_is_farther() -> None:
    cosines = torch.tensor([[0.9, 0.0], [-0.5, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0]] * 2, dtype=torch.float64)
    norms = torch.ones(1, 1, dtype=torch.float64)
    got = dynamic_additive(cosines, targets, norms=norms, margin=0.2, control=2.0)
    plain = cosines.log_softmax(dim=1)
    lowered = (plain[:, 0] - plain[:, 1]) - (got[:, 0] - got[:, 1])
    want = [0.1 * math.exp(0.1), 0.1 * math.exp(1.5)]
    assert lowered.tolist() == pytest.approx(want, rel=1e-9)


def test_aam_beyond_pi_less_the_margin_falls_by_m_sin_m() -> None:
    cosines = torch.tensor([[-0.99, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    got = additive_angle(cosines, targets, norms=torch.ones(1, 1).double(), margin=0.5)
    own = -0.99 - 0.5 * math.sin(0.5)
    assert got[0, 0].item() == pytest.approx(own - math.log(math.exp(own) + 1), abs=1e-12)


@pytest.mark.parametrize("name", LABORATORY_MARGINS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_angles_of_0_and_pi_and_logits_of_ten_thousand_stay_finite(
    name: str, dtype: torch.dtype, scale: float
) -> None:
    cosines = torch.tensor(
        [[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -1.0, -1.0]]
    )
    logits = (scale * cosines).to(dtype).requires_grad_()
    norms = torch.full((1, 1), scale, dtype=dtype)
    for label in range(3):
        targets = F.one_hot(torch.full((4,), label), 3).to(dtype)
        got = apply_margin(name, logits, targets, norms, **scheduled(name))
        want = reference_margin(
            name, logits.detach().double(), targets, norms.double(), **scheduled(name)
        )
        assert got.dtype == dtype
        torch.testing.assert_close(got.detach().double(), want, rtol=1e-5, atol=2e-4)
        (gradient,) = torch.autograd.grad(cross_entropy(got, targets).sum(), logits)
        assert torch.isfinite(gradient).all()


def test_a_picture_without_features_has_no_angle_and_stays_finite() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    for name in ("a", "l"):
        norms = torch.zeros(2, 1)
        got = apply_margin(name, logits, torch.eye(3)[:2], norms, progress=1.0)
        torch.testing.assert_close(got, torch.full((2, 3), -math.log(3)))
        (gradient,) = torch.autograd.grad(got.sum(), logits)
        assert torch.isfinite(gradient).all()


# --- margins: gradients -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kwargs"), MARGIN_SETTINGS)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
def test_margin_passes_gradcheck(name: str, kwargs: dict[str, Any], soft: bool) -> None:
    cosines, norms, targets = batch(5, 4, soft=soft, seed=3, largest=0.9)
    norms = norms_for(name, norms)
    corners = [math.cos(k * math.pi / m) for m in (2, 3, 4) for k in range(1, m)]
    corners += [-math.cos(0.5), -math.cos(1.3)]
    gaps = (cosines.unsqueeze(-1) - torch.tensor(corners).double()).abs()
    assert gaps.min() > 1e-4  # away from every corner

    def log_probs(logits: Tensor, norms: Tensor) -> Tensor:
        return apply_margin(name, logits, targets, norms, **kwargs, **scheduled(name))

    inputs = ((cosines * norms).requires_grad_(), norms.clone().requires_grad_())
    assert torch.autograd.gradcheck(log_probs, inputs)


# --- losses: agreement --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kwargs"), LOSS_SETTINGS)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
@pytest.mark.parametrize("samples", [1, 12])
def test_loss_agrees_with_oracle(
    name: str, kwargs: dict[str, Any], samples: int, soft: bool
) -> None:
    log_probs, targets = log_probabilities(samples, 5, soft=soft)
    kwargs = kwargs | scheduled(name)
    got = LOSS_FUNCTIONS[name](log_probs, targets, **kwargs)
    want = reference.losses(name, log_probs.tolist(), targets.tolist(), **kwargs)
    assert got.shape == (samples,)
    assert got.tolist() == pytest.approx(want, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", LABORATORY_LOSSES)
@pytest.mark.parametrize("classes", [2, 1000])
def test_loss_agrees_with_oracle_on_other_numbers_of_classes(name: str, classes: int) -> None:
    log_probs, targets = log_probabilities(2, classes)
    got = LOSS_FUNCTIONS[name](log_probs, targets, **scheduled(name))
    if name == "real_world_ce":  # the oracle's two loops over classes
        log_probs, targets, got = log_probs[:1], targets[:1], got[:1]
    want = reference.losses(name, log_probs.tolist(), targets.tolist(), **scheduled(name))
    assert got.tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("name", "kwargs"), LOSS_SETTINGS)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
def test_loss_passes_gradcheck(name: str, kwargs: dict[str, Any], soft: bool) -> None:
    log_probs, targets = log_probabilities(6, 5, soft=soft)
    if name == "truncated_gce":  # away from the threshold
        assert (log_probs.exp() - kwargs.get("threshold", 0.5)).abs().min() > 1e-4
    log_probs.requires_grad_()

    def loss(values: Tensor) -> Tensor:
        return LOSS_FUNCTIONS[name](values, targets, **kwargs, **scheduled(name))

    assert torch.autograd.gradcheck(loss, log_probs)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("sce", {}),
        ("mse", {}),
        ("dwb", {"class_counts": [10, 200, 1, 0, 37]}),
        ("mixed_ce", {"progress": 0.8}),
        ("real_world_ce", {"false_negative_costs": 2.0, "false_positive_costs": 0.25}),
        ("real_world_ce", COSTS),
    ],
)
def test_the_closed_forms_of_hard_labels_pass_gradcheck_twice(
    name: str, kwargs: dict[str, Any]
) -> None:
    # Probabilities that sum to 1, as the closed forms take for granted.
    cosines, norms, targets = batch(4, 5, seed=4)
    classes = targets.argmax(dim=1, keepdim=True)

    def loss(logits: Tensor, targets: Tensor = classes) -> Tensor:
        return LOSS_FUNCTIONS[name](logits.log_softmax(dim=1), targets, **kwargs)

    logits = (cosines * norms).requires_grad_()
    torch.testing.assert_close(loss(logits), loss(logits, targets), rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradgradcheck(loss, logits)


def test_real_world_of_many_classes_keeps_its_digits_in_float32() -> None:
    logits = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0], [17], [9_999]])
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        given = logits.to(dtype).requires_grad_()
        value = LOSS_FUNCTIONS["real_world_ce"](given.log_softmax(dim=1), labels).sum()
        values.append(value.double())
        gradients.append(torch.autograd.grad(value, given)[0].double())
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("gap", [18.0, 1e4])
def test_real_world_bounds_a_wrong_answer_that_rounds_to_certain(gap: float) -> None:
    logits = torch.tensor([[gap, 0.0, 0.0]], requires_grad=True)
    for targets in (torch.tensor([[1]]), torch.tensor([[0.0, 1.0, 0.0]])):
        value = LOSS_FUNCTIONS["real_world_ce"](logits.log_softmax(dim=1), targets)
        # The largest float32 below 1 is 1 - 2^-24.
        assert value.item() == pytest.approx(gap + 24 * math.log(2), rel=1e-6)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(gradient).all()


def test_sce_of_two_classes_keeps_its_digits_where_it_is_confidently_wrong() -> None:
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.float64, requires_grad=True)
    wrong = torch.tensor([[1]])
    value = LOSS_FUNCTIONS["sce"](logits.log_softmax(dim=1), wrong)
    # alpha is (1 - p)^2, the weight sqrt(2) p.
    own = 1 / (1 + math.exp(20))
    want = -math.log(own) / 2 * (1 + (1 - own) ** 2 * math.sqrt(2) * own / math.log(10))
    assert value.item() == pytest.approx(want, rel=1e-12)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[0, 0].item() == pytest.approx(0.5, abs=1e-6)


# --- losses: limits -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("focal", {"gamma": 0.0}),
        ("gce", {"q": 1e-9}),
        ("real_world_ce", {"false_positive_costs": 0.0}),
        ("mixed_ce", {"progress": 0.0}),
        ("mixed_ce", {"progress": 1.0, "maximum": 0.0}),
        ("symmetric_ce", {"alpha": 1.0, "beta": 0.0}),
        ("sample_ratio", {"alpha": 1.0, "beta": 0.0, "progress": 0.0}),
        ("sample_ratio", {"alpha": 1.0, "beta": 0.0, "progress": 1.0, "noise_ratio": 0.0}),
    ],
)
def test_what_becomes_cross_entropy(name: str, kwargs: dict[str, Any]) -> None:
    log_probs, targets = log_probabilities(20, 5)
    want = F.nll_loss(log_probs, targets.argmax(dim=1), reduction="none")
    got = LOSS_FUNCTIONS[name](log_probs, targets, **kwargs)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_closed_forms_of_hard_labels() -> None:
    log_probs, targets = log_probabilities(20, 5)
    own = (log_probs.exp() * targets).sum(dim=1)
    # 1 - p, half the absolute error
    got = LOSS_FUNCTIONS["gce"](log_probs, targets, q=1.0)
    torch.testing.assert_close(got, (targets - log_probs.exp()).abs().sum(dim=1) / 2)
    # Wang et al.'s reverse term: -A (1 - p)
    got = LOSS_FUNCTIONS["symmetric_ce"](log_probs, targets, alpha=0.0, beta=1.0)
    torch.testing.assert_close(got, 4 * (1 - own))
    # Brier's score over K
    got = LOSS_FUNCTIONS["mse"](log_probs, targets)
    want = F.mse_loss(log_probs.exp(), targets, reduction="none").mean(dim=1)
    torch.testing.assert_close(got, want)
    # Normalised cross-entropy sums to 1 over all labels a picture could have.
    every = [
        LOSS_FUNCTIONS["active_passive"](
            log_probs, F.one_hot(torch.full((20,), k), 5).double(), beta=0.0
        )
        for k in range(5)
    ]
    torch.testing.assert_close(sum(every), torch.ones(20, dtype=torch.float64))


def test_mixed_cross_entropy_changes_only_what_is_wrong() -> None:
    log_probs, targets = log_probabilities(30, 5)
    right = log_probs.argmax(dim=1) == targets.argmax(dim=1)
    assert right.any() and not right.all()
    plain = cross_entropy(log_probs, targets)
    got = LOSS_FUNCTIONS["mixed_ce"](log_probs, targets, progress=1.0)
    torch.testing.assert_close(got[right], plain[right])
    assert (got[~right] < plain[~right]).all()


@pytest.mark.parametrize(
    ("progress", "samples", "kept"),
    [(0.0, 5, 5), (0.5, 5, 5), (1.0, 5, 4), (1.0, 10, 8), (1.0, 1, 1), (0.25, 20, 19)],
)
def test_sample_ratio_keeps_the_smallest(progress: float, samples: int, kept: int) -> None:
    log_probs, targets = log_probabilities(samples, 5)
    losses = LOSS_FUNCTIONS["sample_ratio"](log_probs, targets, progress=progress)
    every = LOSS_FUNCTIONS["symmetric_ce"](log_probs, targets)
    assert (losses > 0).sum() == kept
    torch.testing.assert_close(losses.mean(), every.sort().values[:kept].mean())


def test_dwb_weighs_rare_classes_more_the_worse_they_are_predicted() -> None:
    # w = log(100 / 1) + 1 for the rare class; at p = 1 its power is 1.
    for p, power in ((0.01, 0.99), (0.5, 0.5), (0.99, 0.01)):
        log_probs = torch.tensor([[p, 1 - p]], dtype=torch.float64).log()
        target = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        got = LOSS_FUNCTIONS["dwb"](log_probs, target, class_counts=[1, 100])
        want = -((math.log(100) + 1) ** power) * math.log(p) + 2 * p * (1 - p)
        assert got.item() == pytest.approx(want, rel=1e-12)


# --- the training loss: every margin with every loss ---------------------------------------------


def module(margin: str, loss: str, **kwargs: Any) -> MarginLoss:
    made = MarginLoss(5, margin, loss, **kwargs)
    made.progress = PROGRESS
    return made


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 1.0, 0.0, 3.0]], ids=["even", "uneven"])
def test_every_pair_is_the_loss_of_the_margins_probabilities(
    margin: str, loss: str, class_weights: list[float] | None
) -> None:
    cosines, norms, targets = batch(9, 5)
    norms = norms_for(margin, norms)
    logits = (cosines * norms).requires_grad_()
    if margin in flat_reference.SAMPLES:
        rows = flat_reference.log_probabilities(margin, logits.tolist(), targets.tolist())
    else:
        rows = reference_margin(margin, logits, targets, norms, **scheduled(margin)).tolist()
    if loss in flat_reference.LOSSES:
        losses = flat_reference.LOSSES[loss](rows, targets.tolist())
    else:
        losses = reference.losses(loss, rows, targets.tolist(), **scheduled(loss))
    want = flat_reference.total(losses, targets.tolist(), class_weights)
    made = module(margin, loss, class_weights=class_weights)
    hard = made(logits, targets.argmax(dim=1), norms=norms)
    assert hard.item() == pytest.approx(want, rel=1e-9, abs=1e-9)
    # The same targets as probabilities: the same loss and gradient.
    soft = made(logits, targets, norms=norms)
    torch.testing.assert_close(hard, soft, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (hard, soft)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_one_in_low_precision_with_logits_of_ten_thousand(
    margin: str, loss: str
) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits = torch.tensor([[1e4, -1e4, 0.0, 3.0, 1e4]], dtype=dtype, requires_grad=True)
        for label in range(5):
            value = module(margin, loss)(
                logits, torch.tensor([label]), norms=torch.full((1, 1), 1e4)
            )
            (gradient,) = torch.autograd.grad(value, logits)
            assert value.dtype == torch.float32
            assert torch.isfinite(value), (dtype, label)
            assert torch.isfinite(gradient).all(), (dtype, label)


@pytest.mark.parametrize("margin", MARGINS)
def test_margins_in_low_precision_are_those_of_float32(margin: str) -> None:
    cosines, norms, targets = batch(9, 5)
    norms = norms_for(margin, norms)
    logits, labels = (cosines * norms).bfloat16(), targets.argmax(dim=1)
    norms = norms.float() * 1.01  # what rounds to a cosine above 1 would be clipped
    got = module(margin, "ce")(logits, labels, norms=norms)
    assert torch.equal(got, module(margin, "ce")(logits.float(), labels, norms=norms))


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.floats(-0.99, 0.99), min_size=2, max_size=6),
    label=st.integers(0, 5),
    margin=st.floats(0, 1),
    name=st.sampled_from(["sm", "am", "double_am", "aam", "dam"]),
)
def test_a_larger_margin_never_raises_the_labels_probability(
    row: list[float], label: int, margin: float, name: str
) -> None:
    logits = 10 * torch.tensor([row], dtype=torch.float64)
    target = F.one_hot(torch.tensor([label % len(row)]), len(row)).double()
    norms = torch.full((1, 1), 10.0, dtype=torch.float64)
    own = [
        (apply_margin(name, logits, target, norms, margin=m) * target).sum().item()
        for m in (0.0, margin)
    ]
    assert own[1] <= own[0] + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    confidence=st.floats(0.01, 0.98),
    name=st.sampled_from([name for name in LABORATORY_LOSSES if name != "dwb"]),
)
def test_losses_fall_as_the_label_gets_more_probable(confidence: float, name: str) -> None:
    def loss(p: float) -> float:
        rest = (1 - p) / 4
        log_probs = torch.tensor([[p, rest, rest, rest, rest]], dtype=torch.float64).log()
        target = F.one_hot(torch.tensor([0]), 5).double()
        return float(LOSS_FUNCTIONS[name](log_probs, target, **scheduled(name)))

    assert loss(confidence + 0.01) <= loss(confidence) + 1e-12


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "kwargs", "message"),
    [
        ("margin", "sm", {"margin": -0.1}, "margin must be at least 0, got -0.1"),
        ("margin", "am", {"margin": -0.1}, "margin must be at least 0, got -0.1"),
        ("margin", "dam", {"margin": -0.1}, "margin must be at least 0, got -0.1"),
        ("margin", "dam", {"control": 0.0}, "control must be above 0, got 0.0"),
        ("margin", "aam", {"margin": 3.2}, r"margin must be in \[0, pi\) radians, got 3.2"),
        ("margin", "a", {"margin": 1.5}, "margin must be an integer of at least 1, got 1.5"),
        ("margin", "l", {"margin": 0}, "margin must be an integer of at least 1, got 0"),
        ("margin", "l", {"annealing_end": -1.0}, "annealing_end must be at least 0, got -1.0"),
        ("margin", "am", {"norms": 1.0}, "margin_kwargs of additive_cosine may hold margin, got"),
        ("loss", "focal", {"gamma": -1.0}, "gamma must be at least 0, got -1.0"),
        ("loss", "gce", {"q": 0.0}, r"q must be in \(0, 1\], got 0.0"),
        ("loss", "truncated_gce", {"threshold": 1.0}, r"threshold must be in \(0, 1\), got 1.0"),
        ("loss", "mixed_ce", {"maximum": 1.1}, r"maximum must be in \[0, 1\], got 1.1"),
        ("loss", "mixed_ce", {"progress": 1.0}, "loss_kwargs of mixed may hold maximum, got"),
        ("loss", "sample_ratio", {"noise_ratio": 1.0}, r"noise_ratio must be in \[0, 1\), got 1"),
        ("loss", "symmetric_ce", {"alpha": -1.0}, "alpha must be at least 0, got -1.0"),
        ("loss", "active_passive", {"log_zero": 0.0}, "log_zero must be finite and below 0"),
        ("loss", "dwb", {"class_counts": [1, 2]}, r"class_counts must be 5 numbers.*got \[1, 2\]"),
        (
            "loss",
            "real_world_ce",
            {"false_negative_costs": [1.0, 2.0]},
            r"false_negative_costs must be one number or have shape \(5,\), got shape \(2,\)",
        ),
        (
            "loss",
            "real_world_ce",
            {"false_positive_costs": -1.0},
            "false_positive_costs must be at least 0, got -1.0",
        ),
    ],
)
def test_settings_out_of_range_are_refused(
    kind: str, name: str, kwargs: dict[str, Any], message: str
) -> None:
    chosen: dict[str, Any] = {"margin": "none", "loss": "ce", kind: name, f"{kind}_kwargs": kwargs}
    with pytest.raises(ValueError, match=message):
        MarginLoss(5, **chosen)


@pytest.mark.parametrize("name", sorted(CLASSIFIER_OF_MARGIN))
def test_an_angular_margin_without_norms_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the margin '{name}' needs norms, got None"):
        module(name, "ce")(torch.zeros(1, 5), torch.tensor([0]))


@pytest.mark.parametrize(("margin", "loss"), [("a", "ce"), ("none", "mixed_ce")])
def test_a_schedule_without_progress_is_refused(margin: str, loss: str) -> None:
    made = MarginLoss(5, margin, loss)
    with pytest.raises(RuntimeError, match="follows a schedule and needs the training's progress"):
        made(torch.zeros(1, 5), torch.tensor([0]), norms=torch.ones(1, 1))


def test_soft_margin_needs_no_norms() -> None:
    logits = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    got = soft_margin(logits, torch.tensor([[1.0, 0.0]]).double(), margin=1.0)
    assert got.exp().tolist() == [[pytest.approx(0.5), pytest.approx(0.5)]]
