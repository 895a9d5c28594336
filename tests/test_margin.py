"""Margins and losses against `reference.margins`, closed forms, gradcheck and torch's own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from emosynthnet_hf import margin_emosynthnet
from emosynthnet_hf.margin_emosynthnet import (
    MarginLoss,
    as_targets,
    cross_entropy,
    mam,
    mam_all,
    mam_figure,
    mam_margin,
    mam_verbatim,
    no_margin,
    sce,
    two_largest,
)
from tests.reference import margins as reference

# Those of this file; the laboratory's are tested in test_losses.py.
MARGIN_FUNCTIONS = {name: margin_emosynthnet.MARGIN_FUNCTIONS[name] for name in reference.SAMPLES}
LOSS_FUNCTIONS = {name: margin_emosynthnet.LOSS_FUNCTIONS[name] for name in reference.LOSSES}
ALL = list(MARGIN_FUNCTIONS)
SHIFT_INVARIANT = ["none", "mam", "mam_all", "mam_figure"]


def batch(
    samples: int, classes: int, scale: float, *, soft: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """float64 logits N(0.7, scale^2), so that nothing is centred by chance, and targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale + 0.7
    if soft:
        votes = torch.randint(0, 5, (samples, classes), generator=generator).double()
        votes[:, 0] += 1
        return logits, votes / votes.sum(dim=1, keepdim=True)
    return logits, one_hot(torch.randint(0, classes, (samples,), generator=generator), classes)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64)[labels]


def expected(margin: str, logits: Tensor, targets: Tensor, **kwargs: float) -> Tensor:
    rows = reference.log_probabilities(margin, logits.tolist(), targets.tolist(), **kwargs)
    return torch.tensor(rows, dtype=torch.float64)


def log_probs_of(probabilities: list[float]) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


# --- margins: agreement -------------------------------------------------------------------------


@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 5.0, 40.0, 1000.0])
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (1, 7), (9, 7)])
def test_margin_agrees_with_oracle(
    margin: str, scale: float, samples: int, classes: int, soft: bool
) -> None:
    logits, targets = batch(samples, classes, scale, soft=soft)
    got = MARGIN_FUNCTIONS[margin](logits, targets)
    torch.testing.assert_close(got, expected(margin, logits, targets), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("margin", ALL)
def test_margin_agrees_with_oracle_on_a_thousand_classes(margin: str) -> None:
    logits, targets = batch(2, 1000, 4.0)
    got = MARGIN_FUNCTIONS[margin](logits, targets)
    torch.testing.assert_close(got, expected(margin, logits, targets), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("margin", ["mam", "mam_all", "mam_figure", "mam_verbatim"])
@pytest.mark.parametrize(("epsilon", "maximum"), [(1.5, 4.0), (0.2, 0.5), (20.0, 2.0)])
def test_epsilon_and_maximum_agree_with_oracle(margin: str, epsilon: float, maximum: float) -> None:
    logits, targets = batch(6, 7, 3.0, seed=3)
    got = MARGIN_FUNCTIONS[margin](logits, targets, epsilon=epsilon, maximum=maximum)
    want = expected(margin, logits, targets, epsilon=epsilon, maximum=maximum)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-10)
    assert not torch.allclose(got, MARGIN_FUNCTIONS[margin](logits, targets), atol=1e-3)


def test_margins_are_those_worked_by_hand() -> None:
    # logits (2, -1, -1) are centred; M = ln 2.2, so e^(2 - M) = e^2 / 2.2
    logits = torch.tensor([[2.0, -1.0, -1.0]], dtype=torch.float64)
    right, wrong = one_hot(torch.tensor([0]), 3), one_hot(torch.tensor([1]), 3)
    top, low = math.e**2, 1 / math.e
    p_right = (top / 2.2) / (top / 2.2 + 2 * low)
    p_wrong = (low / 2.2) / (low / 2.2 + top + low)
    assert mam(logits, right)[0, 0].exp().item() == pytest.approx(p_right, abs=1e-14)
    assert mam(logits, wrong)[0, 1].exp().item() == pytest.approx(p_wrong, abs=1e-14)
    ratios = [p_right, p_wrong, p_wrong]
    for got, ratio in zip(mam_all(logits, wrong)[0].exp().tolist(), ratios, strict=True):
        assert got == pytest.approx(ratio / sum(ratios), abs=1e-14)
    # the figure: e^m = mean(e^z) + log10 2.2
    divisor = (top + 2 * low) / 3 + math.log10(2.2)
    ratios = [(top / divisor) / (top / divisor + 2 * low)]
    ratios += [(low / divisor) / (low / divisor + top + low)] * 2
    for got, ratio in zip(mam_figure(logits, wrong)[0].exp().tolist(), ratios, strict=True):
        assert got == pytest.approx(ratio / sum(ratios), abs=1e-14)


# --- margins: limits ----------------------------------------------------------------------------


@pytest.mark.parametrize("margin", ["mam", "mam_all"])
def test_margin_is_zero_below_a_largest_centred_logit_of_one_less_epsilon(margin: str) -> None:
    logits = torch.tensor([[0.79, -0.5, -0.29], [5.0, 5.0, 5.0]], dtype=torch.float64)
    targets = one_hot(torch.tensor([0, 2]), 3)
    assert torch.equal(mam_margin(logits), torch.zeros(2, 1, dtype=torch.float64))
    if margin == "mam":
        torch.testing.assert_close(mam(logits, targets), logits.log_softmax(dim=1))
    else:  # a ratio without a margin is the softmax, and those sum to one
        torch.testing.assert_close(mam_all(logits, targets), logits.log_softmax(dim=1))


def test_margin_is_four_at_most() -> None:
    logits = torch.tensor([[1e4, 0.0], [2 * (math.exp(4) - 0.2), 0.0], [100.0, 0.0]])
    want = [4.0, 4.0, math.log(50.2)]
    assert mam_margin(logits).flatten().tolist() == pytest.approx(want, abs=1e-6)


def test_uniform_target_takes_the_same_from_every_logit() -> None:
    logits, _ = batch(5, 7, 6.0)
    uniform = torch.full((5, 7), 1 / 7, dtype=torch.float64)
    torch.testing.assert_close(mam(logits, uniform), logits.log_softmax(dim=1))
    torch.testing.assert_close(mam_verbatim(logits, uniform), logits.log_softmax(dim=1))


@pytest.mark.parametrize("margin", ["none", "mam_all", "mam_figure"])
def test_label_free_margins_ignore_the_targets(margin: str) -> None:
    logits, targets = batch(5, 7, 6.0)
    _, others = batch(5, 7, 6.0, soft=True, seed=9)
    function = MARGIN_FUNCTIONS[margin]
    assert torch.equal(function(logits, targets), function(logits, others))


@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_logits_of_ten_thousand_stay_finite(margin: str, dtype: torch.dtype) -> None:
    rows = [
        [1e4, 0.0, -3.0, 5.0],
        [-1e4, 0.0, 1.0, 2.0],
        [1e4, 1e4, 1e4, 1e4],
        [-1e4, -1e4, -1e4, -1e4],
        [1e4, -1e4, 0.0, 1.0],
        [-1e4, 1e4, 1e4, 0.0],
    ]
    logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
    for label in range(4):
        targets = one_hot(torch.full((6,), label), 4)
        got = MARGIN_FUNCTIONS[margin](logits, targets.to(dtype))
        assert got.dtype == dtype
        assert torch.isfinite(got).all()
        if dtype.itemsize > 2:  # neighbours of 1e4 are 8 and 64 apart in the others
            want = expected(margin, logits.detach().double(), targets)
            torch.testing.assert_close(got.detach().double(), want, rtol=1e-5, atol=5e-5)
        for loss in LOSS_FUNCTIONS.values():
            (gradient,) = torch.autograd.grad(
                loss(got, targets.to(dtype)).float().mean(), logits, retain_graph=True
            )
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.1)])
def test_low_precision_agrees_with_oracle(
    margin: str, dtype: torch.dtype, tolerance: float
) -> None:
    logits, targets = batch(9, 7, 3.0)
    logits = logits.to(dtype)
    got = MARGIN_FUNCTIONS[margin](logits, targets.to(dtype))
    want = expected(margin, logits.double(), targets)
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize("loss", list(LOSS_FUNCTIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loss_of_confident_wrong_binary_logits_has_a_finite_gradient(
    margin: str, loss: str, dtype: torch.dtype
) -> None:
    # K = 2 and p exactly (0, 1) against (1, 0): the norm of eq. 4.4 is 0, where sqrt has no slope
    logits = torch.tensor([[-200.0, 200.0], [300.0, -300.0]], dtype=dtype, requires_grad=True)
    value = MarginLoss(2, margin, loss)(logits, torch.tensor([0, 1]))
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("epsilon", [1e-3, 0.05])
def test_figure_margin_is_finite_where_its_exponential_would_be_negative(epsilon: float) -> None:
    # equal logits: mean(exp z) = 1, and 1 + log10(0.05) < 0 has no logarithm
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    got = mam_figure(logits, torch.eye(3, dtype=torch.float64)[:1], epsilon=epsilon)
    (gradient,) = torch.autograd.grad(got[0, 0], logits)
    assert got.exp().tolist()[0] == pytest.approx([1 / 3] * 3)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("margin", ["mam", "mam_all", "mam_figure", "mam_verbatim"])
@pytest.mark.parametrize(("name", "value"), [("epsilon", 0.0), ("epsilon", -1.0), ("maximum", 0.0)])
def test_margin_refuses_values_out_of_range(margin: str, name: str, value: float) -> None:
    logits, targets = batch(2, 3, 1.0)
    with pytest.raises(ValueError, match=rf"{name} must be above 0, got {value}"):
        MARGIN_FUNCTIONS[margin](logits, targets, **{name: value})


# --- margins: properties ------------------------------------------------------------------------

logit_rows = st.lists(st.floats(-60, 60), min_size=2, max_size=12)


@settings(deadline=None, max_examples=150)
@given(logit_rows)
def test_mam_all_and_the_figure_keep_the_argmax(row: list[float]) -> None:
    first, second = sorted(row, reverse=True)[:2]
    assume(first - second > 1e-6)
    logits = torch.tensor([row], dtype=torch.float64)
    for function in (mam_all, mam_figure):
        scores = function(logits, torch.zeros_like(logits))
        assert scores.argmax().item() == row.index(first)


@settings(deadline=None, max_examples=150)
@given(logit_rows)
def test_every_margin_gives_probabilities(row: list[float]) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    targets = one_hot(torch.tensor([len(row) - 1]), len(row))
    for function in MARGIN_FUNCTIONS.values():
        total = function(logits, targets).exp().sum().item()
        assert total == pytest.approx(1, abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(logit_rows, st.integers(0, 11))
def test_mam_never_rewards_the_target(row: list[float], label: int) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    targets = one_hot(torch.tensor([label % len(row)]), len(row))
    with_margin = cross_entropy(mam(logits, targets), targets)
    assert (with_margin >= cross_entropy(no_margin(logits, targets), targets) - 1e-12).all()


@pytest.mark.parametrize("margin", SHIFT_INVARIANT)
@settings(deadline=None, max_examples=60)
@given(row=logit_rows, shift=st.floats(-500, 500))
def test_margin_is_invariant_to_a_constant(margin: str, row: list[float], shift: float) -> None:
    logits = torch.tensor([row], dtype=torch.float64)
    targets = one_hot(torch.tensor([0]), len(row))
    function = MARGIN_FUNCTIONS[margin]
    torch.testing.assert_close(
        function(logits + shift, targets), function(logits, targets), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("shift", [1.0, 10.0, 100.0])
def test_verbatim_margin_pays_for_logits_that_drift_down(shift: float) -> None:
    # equal logits of -c: M_U = -c, so p = 1 / (1 + (K - 1) e^-c) with nothing learnt
    logits = torch.full((1, 7), -shift, dtype=torch.float64)
    loss = cross_entropy(
        mam_verbatim(logits, one_hot(torch.tensor([3]), 7)), one_hot(torch.tensor([3]), 7)
    )
    assert loss.item() == pytest.approx(math.log1p(6 * math.exp(-shift)), rel=1e-12)


def fit_linear(margin: Callable[..., Tensor], seed: int) -> tuple[float, float]:
    """(last loss, accuracy on its own data) of a linear classifier from random weights."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(210) % 7
    targets = torch.eye(7)[labels]
    features = 0.1 * (targets + 0.3 * torch.randn(210, 7, generator=generator))
    weight = (3 * torch.randn(7, 7, generator=generator)).requires_grad_()
    bias = torch.zeros(7, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=1.0)
    for _ in range(600):
        optimizer.zero_grad()
        loss = cross_entropy(margin(features @ weight + bias, targets), targets).mean()
        loss.backward()
        optimizer.step()
    predictions = (features @ weight + bias).argmax(dim=1)
    return loss.item(), (predictions == labels).float().mean().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_verbatim_margin_collapses_where_mam_learns(seed: int) -> None:
    loss, accuracy = fit_linear(mam, seed)
    assert loss > 1
    assert accuracy > 0.7
    loss, accuracy = fit_linear(mam_verbatim, seed)
    assert loss < 0.02  # a plain softmax that knows nothing has ln 7 = 1.95
    assert accuracy < 0.25  # chance is 1 in 7


# --- margins: gradients -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "kwargs"),
    [
        ("none", {}),
        ("mam", {"differentiable": True}),
        ("mam_all", {"differentiable": True}),
        ("mam_figure", {}),
        ("mam_verbatim", {}),
    ],
)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
def test_differentiated_margin_passes_gradcheck(
    margin: str, kwargs: dict[str, bool], soft: bool
) -> None:
    logits, targets = batch(4, 5, 2.0, soft=soft, seed=5)
    largest = (logits - logits.mean(dim=1, keepdim=True)).amax(dim=1)
    assert ((largest > 0.9) & (largest < 3.7)).all()  # away from every clip
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: MARGIN_FUNCTIONS[margin](z, targets, **kwargs), logits
    )


@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
def test_mam_gradient_is_that_of_a_constant_margin(soft: bool) -> None:
    # d log_softmax(z - t M)_k / d z_j = [j = k] - p_j for a constant M
    logits, targets = batch(3, 6, 3.0, soft=soft, seed=2)
    probabilities = expected("mam", logits, targets).exp()
    for n in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda z, n=n: mam(z[None], targets[n : n + 1])[0], logits[n]
        )
        want = torch.eye(6, dtype=torch.float64) - probabilities[n][None, :]
        torch.testing.assert_close(jacobian, want, rtol=0, atol=1e-10)


def test_mam_all_gradient_is_that_of_a_constant_margin() -> None:
    # log q_k = log sigmoid(a_k), a_k = z_k - M - log sum_{j != k} e^z_j, p = softmax(log q)
    logits, targets = batch(1, 5, 3.0, seed=2)
    z = logits[0].tolist()
    margin = mam_margin(logits).item()
    jacobian = torch.autograd.functional.jacobian(lambda x: mam_all(x[None], targets)[0], logits[0])

    def log_q_slope(k: int, j: int) -> float:
        rest = sum(math.exp(z[i]) for i in range(5) if i != k)
        share = rest / (math.exp(z[k] - margin) + rest)  # 1 - q_k
        return share * (1.0 if j == k else -math.exp(z[j]) / rest)

    p = mam_all(logits, targets)[0].exp().tolist()
    for k in range(5):
        for j in range(5):
            want = log_q_slope(k, j) - sum(p[i] * log_q_slope(i, j) for i in range(5))
            assert jacobian[k, j].item() == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("margin", ["mam", "mam_all"])
def test_differentiable_changes_the_gradient_and_not_the_value(margin: str) -> None:
    logits, targets = batch(4, 5, 2.0, seed=5)
    logits.requires_grad_()
    function = MARGIN_FUNCTIONS[margin]
    off, on = function(logits, targets), function(logits, targets, differentiable=True)
    assert torch.equal(off, on)
    (gradient_off,) = torch.autograd.grad(cross_entropy(off, targets).sum(), logits)
    (gradient_on,) = torch.autograd.grad(cross_entropy(on, targets).sum(), logits)
    assert not torch.allclose(gradient_off, gradient_on, atol=1e-3)


# --- the target's log-probability alone ---------------------------------------------------------

ALONE: list[tuple[str, dict[str, Any]]] = [
    ("mam_all", {}),
    ("mam_all", {"differentiable": True}),
    ("mam_figure", {}),
]


def both(
    margin: str, logits: Tensor, classes: Tensor, epsilon: Tensor, kwargs: dict[str, Any]
) -> list[Tensor]:
    """The target's log-probability (N, 1): alone, and of all K."""
    function = MARGIN_FUNCTIONS[margin]
    alone = function(logits, classes, epsilon=epsilon, target_only=True, **kwargs)
    return [alone, function(logits, classes, epsilon=epsilon, **kwargs).gather(-1, classes)]


@pytest.mark.parametrize(("margin", "kwargs"), ALONE)
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 5.0, 40.0, 1000.0])
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (9, 7), (2, 1000)])
def test_target_alone_agrees_with_oracle_and_its_gradient_with_that_of_all(
    margin: str, kwargs: dict[str, Any], scale: float, samples: int, classes: int
) -> None:
    logits, targets = batch(samples, classes, scale)
    labels = targets.argmax(dim=1, keepdim=True)
    labels[0] = logits[0].argmax()  # the largest class has formulas of its own
    logits.requires_grad_()
    epsilon = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    alone, of_all = both(margin, logits, labels, epsilon, kwargs)
    want = expected(margin, logits, one_hot(labels.squeeze(-1), classes), epsilon=0.3)
    torch.testing.assert_close(alone, want.gather(-1, labels), rtol=1e-12, atol=1e-10)
    weights = torch.linspace(0.5, 2, samples, dtype=torch.float64).unsqueeze(-1)
    gradients = [
        torch.autograd.grad((weights * own).sum(), [logits, epsilon]) for own in (alone, of_all)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("margin", "kwargs"), ALONE)
def test_target_alone_passes_gradcheck_twice(margin: str, kwargs: dict[str, Any]) -> None:
    logits, targets = batch(4, 5, 2.0, seed=5)
    labels = targets.argmax(dim=1, keepdim=True)
    labels[0] = logits[0].argmax()
    labels[1] = logits[1].argmin()
    epsilon = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def own(logits: Tensor, epsilon: Tensor) -> Tensor:
        return both(margin, logits, labels, epsilon, kwargs)[0]

    inputs = (logits.requires_grad_(), epsilon)
    if margin == "mam_figure" or kwargs:  # else the margin's part is left out on purpose
        assert torch.autograd.gradcheck(own, inputs)
        assert torch.autograd.gradgradcheck(own, inputs)
    products = []
    for value in both(margin, logits, labels, epsilon, kwargs):
        first = torch.autograd.grad(value.sum(), inputs, create_graph=True)
        length = sum(gradient.square().sum() for gradient in first)
        assert isinstance(length, Tensor)
        products.append(torch.autograd.grad(length, inputs))
    torch.testing.assert_close(*products, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("margin", "kwargs"), ALONE)
def test_target_alone_keeps_its_digits_in_float32(margin: str, kwargs: dict[str, Any]) -> None:
    # The largest p rounds to 1, the others underflow, and -1e4 makes the figure's margin larger
    # than the distance of the first two.
    rows = [[1e4, 0.0, -3.0, 5.0], [150.0, 0.0, 1.0, -1e4], [30.0, 0.0, 1.0, 2.0], [1e4] * 4]
    for label in range(4):
        labels = torch.full((4, 1), label)
        values, gradients = [], []
        for dtype in (torch.float32, torch.float64):
            logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
            epsilon = torch.tensor(0.2, dtype=dtype)
            own = both(margin, logits, labels, epsilon, kwargs)[0]
            values.append(own.double())
            gradients.append(torch.autograd.grad(own.sum(), logits)[0].double())
        want = expected(margin, torch.tensor(rows).double(), one_hot(labels.squeeze(-1), 4))
        torch.testing.assert_close(values[1], want.gather(-1, labels), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("margin", ["mam", "mam_verbatim"])
def test_margin_of_largest_and_mean_passes_gradcheck_twice(margin: str) -> None:
    logits, targets = batch(4, 5, 2.0, seed=5)
    kwargs = {"differentiable": True} if margin == "mam" else {}

    def own(logits: Tensor) -> Tensor:
        return MARGIN_FUNCTIONS[margin](logits, targets.argmax(dim=1, keepdim=True), **kwargs)

    assert torch.autograd.gradgradcheck(own, logits.requires_grad_())


@pytest.mark.parametrize("classes", [2, 7, 255, 256, 1000, 1003])
def test_two_largest_are_those_of_topk(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Whole numbers, so that the largest are often equal; -inf is what is padded with.
    values = torch.randint(-3, 100, (200, classes), generator=generator).float()
    values[0] = -torch.inf
    values[0, -1] = 1.0
    values[1, :-1], values[1, -1] = 0.0, 5.0
    first, second, place = two_largest(values)
    assert torch.equal(torch.cat([first, second], dim=-1), values.topk(2).values)
    assert torch.equal(place.squeeze(-1), values.argmax(dim=-1))


# --- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (1, 7), (8, 7), (2, 1000)])
def test_losses_agree_with_oracle(margin: str, soft: bool, samples: int, classes: int) -> None:
    logits, targets = batch(samples, classes, 3.0, soft=soft)
    log_probs = MARGIN_FUNCTIONS[margin](logits, targets)
    for name, function in LOSS_FUNCTIONS.items():
        want = reference.LOSSES[name](log_probs.tolist(), targets.tolist())
        got = function(log_probs, targets)
        assert got.shape == (samples,)
        assert got.tolist() == pytest.approx(want, rel=1e-12, abs=1e-10)


def test_sce_factors_agree_with_oracle() -> None:
    logits, targets = batch(8, 7, 3.0)
    log_probs = logits.log_softmax(dim=1)
    got = sce(log_probs, targets, ce_weight=0.3, proposed_weight=1.7)
    want = reference.sce(log_probs.tolist(), targets.tolist(), 0.3, 1.7)
    assert got.tolist() == pytest.approx(want, rel=1e-12)
    torch.testing.assert_close(
        sce(log_probs, targets, ce_weight=1.0, proposed_weight=0.0),
        cross_entropy(log_probs, targets),
    )


def test_sce_is_the_one_worked_by_hand() -> None:
    # p = (0.7, 0.2, 0.1), target first: t - p = (0.3, -0.2, -0.1), (1 - t) - p = (-0.7, 0.8, 0.9)
    target = one_hot(torch.tensor([0]), 3)
    alpha = (0.09 + 0.04 + 0.01) / 3
    weight = math.sqrt(0.49 + 0.64 + 0.81)
    want = 0.5 * -math.log(0.7) + 0.5 * alpha * weight * -math.log10(0.7)
    assert sce(log_probs_of([0.7, 0.2, 0.1]), target).item() == pytest.approx(want, abs=1e-14)


def sce_weight(probabilities: list[float], label: int) -> float:
    """The factor left of the proposed term when its alpha and its log10 are divided out."""
    classes = len(probabilities)
    proposed = sce(
        log_probs_of(probabilities),
        one_hot(torch.tensor([label]), classes),
        ce_weight=0.0,
        proposed_weight=1.0,
    ).item()
    squares = [(p - (k == label)) ** 2 for k, p in enumerate(probabilities)]
    return proposed / (sum(squares) / classes * -math.log10(probabilities[label]))


@pytest.mark.parametrize("classes", [2, 3, 7, 100])
def test_sce_weight_does_not_shrink_with_confidence(classes: int) -> None:
    tiny = 1e-9
    rest = tiny / (classes - 1)
    right = [1 - tiny] + [rest] * (classes - 1)
    wrong = [rest, 1 - tiny] + [rest] * (classes - 2)
    assert sce_weight(right, 0) == pytest.approx(math.sqrt(classes), rel=1e-6)
    assert sce_weight(wrong, 0) == pytest.approx(math.sqrt(classes - 2), rel=1e-6, abs=1e-8)


def test_sce_is_half_of_ce_at_a_perfect_prediction() -> None:
    # alpha does shrink: the proposed term falls much faster than the plain one
    target = one_hot(torch.tensor([0]), 3)
    shares = []
    for confidence in (0.5, 0.9, 0.99, 0.999):
        log_probs = log_probs_of([confidence, (1 - confidence) / 2, (1 - confidence) / 2])
        proposed = sce(log_probs, target, ce_weight=0.0, proposed_weight=1.0)
        shares.append((proposed / cross_entropy(log_probs, target)).item())
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1e-5


@pytest.mark.parametrize("loss", list(LOSS_FUNCTIONS))
@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
def test_losses_pass_gradcheck(margin: str, loss: str, soft: bool) -> None:
    logits, targets = batch(4, 5, 2.0, soft=soft, seed=5)
    log_probs = MARGIN_FUNCTIONS[margin](logits, targets).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LOSS_FUNCTIONS[loss](x, targets), log_probs)


# --- the training loss --------------------------------------------------------------------------

WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]


@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize("loss", list(LOSS_FUNCTIONS))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_training_loss_agrees_with_oracle(
    margin: str, loss: str, soft: bool, smoothing: float, class_weights: list[float] | None
) -> None:
    logits, targets = batch(6, 5, 3.0, soft=soft, seed=7)
    log_probs = reference.log_probabilities(margin, logits.tolist(), targets.tolist())
    smoothed = reference.smoothed(targets.tolist(), smoothing)
    want = reference.total(
        reference.LOSSES[loss](log_probs, smoothed), targets.tolist(), class_weights
    )
    module = MarginLoss(5, margin, loss, label_smoothing=smoothing, class_weights=class_weights)
    labels = targets if soft else targets.argmax(dim=1)
    assert module(logits, labels).item() == pytest.approx(want, abs=1e-10)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_plain_ce_is_torch_cross_entropy(class_weights: list[float] | None) -> None:
    logits, targets = batch(64, 5, 3.0)
    labels = targets.argmax(dim=1)
    weight = None if class_weights is None else logits.new_tensor(class_weights)
    want = F.cross_entropy(logits, labels, weight=weight)
    got = MarginLoss(5, "none", "ce", class_weights=class_weights)(logits, labels)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_smoothed_ce_is_torch_cross_entropy(soft: bool) -> None:
    logits, targets = batch(64, 5, 3.0, soft=soft)
    labels = targets if soft else targets.argmax(dim=1)
    want = F.cross_entropy(logits, labels, label_smoothing=0.15)
    got = MarginLoss(5, "none", "ce", label_smoothing=0.15)(logits, labels)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_class_missing_from_the_batch_changes_nothing() -> None:
    logits, _ = batch(4, 5, 3.0)
    labels = torch.tensor([0, 0, 1, 1])
    for margin in ALL:
        got = MarginLoss(5, margin, "sce", class_weights=WEIGHTS)(logits, labels)
        rows = reference.log_probabilities(margin, logits.tolist(), one_hot(labels, 5).tolist())
        losses = reference.sce(rows, one_hot(labels, 5).tolist())
        want = reference.total(losses, one_hot(labels, 5).tolist(), WEIGHTS)
        assert got.item() == pytest.approx(want, abs=1e-10)


def test_batch_of_zero_weight_classes_has_nothing_to_learn_from() -> None:
    logits, _ = batch(2, 5, 3.0)
    logits.requires_grad_()
    loss = MarginLoss(5, "mam", "sce", class_weights=WEIGHTS)(logits, torch.tensor([3, 3]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("margin", ALL)
def test_low_precision_logits_are_scored_in_float32(margin: str, dtype: torch.dtype) -> None:
    logits, targets = batch(8, 7, 3.0)
    labels = targets.argmax(dim=1)
    module = MarginLoss(7, margin, "sce")
    got = module(logits.to(dtype), labels)
    assert got.dtype == torch.float32
    assert torch.equal(got, module(logits.to(dtype).float(), labels))


@pytest.mark.parametrize("margin", ALL)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("sizes", [[4, 4, 4], [1, 3, 8]])
def test_unweighted_ce_is_exact_under_gradient_accumulation(
    margin: str, soft: bool, sizes: list[int]
) -> None:
    logits, targets = batch(12, 5, 3.0, soft=soft)
    labels = targets if soft else targets.argmax(dim=1)
    logits.requires_grad_()
    module = MarginLoss(5, margin, "ce")
    whole = module(logits, labels)
    (whole_gradient,) = torch.autograd.grad(whole, logits)
    items = int((labels != -100).sum())  # the count that transformers' Trainer makes of its labels
    parts = [
        module(part, part_labels, num_items_in_batch=items)
        for part, part_labels in zip(logits.split(sizes), labels.split(sizes), strict=True)
    ]
    total = torch.stack(parts).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(total, whole, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-13, atol=1e-16)


def test_accumulated_sce_scores_each_micro_batch_by_itself() -> None:
    logits, targets = batch(12, 5, 3.0)
    labels = targets.argmax(dim=1)
    module = MarginLoss(5, "none", "sce")
    got = 0.0
    want = 0.0
    for part in (slice(0, 3), slice(3, 12)):
        got += module(logits[part], labels[part], num_items_in_batch=12).item()
        rows = logits[part].log_softmax(dim=1).tolist()
        want += sum(reference.sce(rows, targets[part].tolist())) / 12
    assert got == pytest.approx(want, abs=1e-12)
    assert got != pytest.approx(module(logits, labels).item(), abs=1e-5)


def test_learnable_epsilon_starts_where_it_is_configured_and_drifts_down() -> None:
    logits, targets = batch(16, 5, 3.0)
    labels = targets.argmax(dim=1)
    module = MarginLoss(5, "mam", "ce", margin_kwargs={"epsilon": 0.2}, learnable_epsilon=True)
    fixed = MarginLoss(5, "mam", "ce", margin_kwargs={"epsilon": 0.2})
    assert module(logits, labels).item() == pytest.approx(fixed(logits, labels).item(), abs=1e-6)
    (epsilon,) = module.parameters()
    optimizer = torch.optim.SGD(module.parameters(), lr=5.0)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = module(logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert 0 < F.softplus(epsilon).item() < 0.2
    assert list(fixed.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_of_labels(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 3, dtype=dtype)
    for integers in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        targets = as_targets(torch.tensor([2, 0], dtype=integers), logits)
        assert targets.tolist() == [[0, 0, 1], [1, 0, 0]]
        assert targets.dtype == dtype
    for floats in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        soft = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]], dtype=floats)
        targets = as_targets(soft, logits)
        assert targets.tolist() == soft.tolist()
        assert targets.dtype == dtype


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(4, 1, dtype=torch.long),
        torch.zeros(4),
        torch.full((4, 2), 0.5),
        torch.zeros(()),
        torch.zeros(3, dtype=torch.long),
        torch.full((3, 3), 1 / 3),
        torch.zeros(4, 3, dtype=torch.long),
    ],
    ids=["(N, 1)", "float (N,)", "(N, K-1)", "scalar", "(N-1,)", "(N-1, K)", "integer (N, K)"],
)
def test_labels_of_another_shape_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels must be .*\(4,\).*\(4, 3\).* got") as error:
        as_targets(labels, torch.zeros(4, 3))
    assert str(labels.dtype) in str(error.value)
    assert str(tuple(labels.shape)) in str(error.value)


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_classes_that_do_not_exist_are_refused(label: int) -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        as_targets(torch.tensor([label]), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("arguments", "kwargs", "message"),
    [
        (("hinge", "ce"), {}, r"margin must be one of none, mam, .*got 'hinge'"),
        (("mam", "hinge"), {}, r"loss must be one of ce, sce.*got 'hinge'"),
        (("mam", "ce"), {"margin_kwargs": {"m": 1.0}}, r"margin_kwargs.*epsilon, maximum.*got m"),
        (("none", "ce"), {"margin_kwargs": {"epsilon": 1.0}}, r"margin_kwargs.*nothing.*epsilon"),
        (("mam", "sce"), {"loss_kwargs": {"gamma": 2.0}}, r"loss_kwargs.*ce_weight.*got gamma"),
        (("mam", "ce"), {"class_weights": [1.0] * 4}, r"class_weights must have 5.*got 4"),
        (("mam", "ce"), {"margin_kwargs": {"epsilon": -1.0}}, r"epsilon.*above 0, got -1.0"),
        (
            ("mam", "ce"),
            {"margin_kwargs": {"epsilon": -1.0}, "learnable_epsilon": True},
            r"epsilon.*above 0, got -1.0",
        ),
    ],
)
def test_settings_out_of_range_are_refused(
    arguments: tuple[str, str], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MarginLoss(5, *arguments, **kwargs)
