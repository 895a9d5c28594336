"""The training losses that a published EmoSynthNet carries: a margin turns logits and targets into
log-probabilities, a loss scores them. Pure functions first, one thin module last.

Sources: Nabaei (2024), sections 4.2.1 (SCE) and 4.2.2 (MAM-SoftMax). Where the thesis's formulas
contradict each other, the docstring says which reading is used. Shapes: N samples, K classes;
natural logarithms unless said.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_emosynthnet import LOSSES, MARGINS

# --------------------------------------------------------------------------------------------------
# Margins: (logits (N, K), targets (N, K)) -> log-probabilities (N, K)
# --------------------------------------------------------------------------------------------------


def no_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Plain softmax (eq. 4.7): log-probabilities (N, K) of float logits (N, K); `targets` is not
    read."""
    return F.log_softmax(logits, dim=-1)


def mam(
    logits: Tensor,
    targets: Tensor,
    *,
    epsilon: float | Tensor = 0.2,
    maximum: float = 4.0,
    differentiable: bool = False,
) -> Tensor:
    """MAM-SoftMax (eq. 4.13 to 4.16): softmax with the target's logit lowered by an adaptive
    margin.

    The margin is zero until a sample's largest centred logit passes `1 - epsilon`, then grows with
    its logarithm. The logits are centred first ("prior normalisation"), so Mean(x) of eq. 4.14 is 0
    and the margin, like softmax, does not change when a constant is added to all logits.

    Args:
        logits: (N, K) float, margin-free.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes. A soft target lowers each
            logit by its share of the margin.
        epsilon: added to the largest logit, above 0; a tensor receives a gradient.
        maximum: the largest margin, above 0.
        differentiable: let gradients flow through the margin to the logits. A margin that is
            differentiated learns to shrink itself.

    Returns:
        (N, K) log-probabilities in the dtype of `logits`.
    """
    margin = mam_margin(logits, epsilon=epsilon, maximum=maximum, differentiable=differentiable)
    return F.log_softmax(lower_target(logits, targets, margin), dim=-1)  # eq. 4.13, 4.16


def mam_all(
    logits: Tensor,
    targets: Tensor,
    *,
    epsilon: float | Tensor = 0.2,
    maximum: float = 4.0,
    differentiable: bool = False,
    target_only: bool = False,
) -> Tensor:
    """Figure 4.1 with the margin of [`mam`]: every class's own logit is lowered in its own ratio
    against the rest, and the K ratios are divided by their sum ("posterior normalisation"). Needs
    no label: `targets` is not read unless `target_only`.

    Arguments and return value as in [`mam`]. `target_only`, with targets (N, 1), returns the
    target's own log-probability (N, 1), several times as fast as all K.
    """
    _check_range(epsilon, maximum)

    def margin(largest: Tensor, log_mean_exp: Tensor, epsilon: float | Tensor) -> Tensor:
        return _log_margin(largest if differentiable else largest.detach(), epsilon, maximum)

    return _against_rest(logits, targets, epsilon, margin, target_only)


def mam_figure(
    logits: Tensor,
    targets: Tensor,
    *,
    epsilon: float | Tensor = 0.2,
    maximum: float = 4.0,
    target_only: bool = False,
) -> Tensor:
    """Figure 4.1 to the letter: clip before the log, base 10, and `exp m = mean(exp x) + log10 m`,
    on centred logits.

    The margin is differentiated, as plain code would. Arguments and return value as in [`mam_all`].
    """
    _check_range(epsilon, maximum)

    def margin(largest: Tensor, log_mean_exp: Tensor, epsilon: float | Tensor) -> Tensor:
        limits = torch.finfo(largest.dtype)
        clipped = (largest + epsilon).clamp(limits.tiny, maximum)
        # The mean of exp x is at least 1 for centred x and log10(clipped) above -1 for epsilon
        # above 0.1, so their sum is positive; a smaller epsilon can make it negative, where the
        # figure has no margin: bounded below by tiny.
        share = (torch.log10(clipped) * torch.exp(-log_mean_exp)).clamp_min(limits.eps - 1)
        return log_mean_exp + torch.log1p(share)

    return _against_rest(logits, targets, epsilon, margin, target_only)


def mam_verbatim(
    logits: Tensor, targets: Tensor, *, epsilon: float | Tensor = 0.2, maximum: float = 4.0
) -> Tensor:
    """Eq. 4.14 to 4.16 as printed: logits not centred, margin differentiated. It collapses: when
    all logits drift down, Mean(x) turns the margin into a bonus and the loss vanishes with nothing
    learnt. Kept to show that.

    Arguments and return value as in [`mam`].
    """
    _check_range(epsilon, maximum)
    largest, mean = _largest_and_mean(logits)
    upper_limit = (largest + epsilon).clamp_min(torch.finfo(logits.dtype).tiny)  # M_v, eq. 4.14
    margin = mean + upper_limit.log().clamp(0.0, maximum)  # M_U = Mean(x) + M_c
    return F.log_softmax(lower_target(logits, targets, margin), dim=-1)


def lower_target(logits: Tensor, targets: Tensor, margin: Tensor) -> Tensor:
    """Logits (N, K) with the margin taken from the target's. Targets are probabilities (N, K), the
    margin broadcastable to that, or integer classes (N, 1), which spares many classes a pass, the
    margin broadcastable to that."""
    if targets.is_floating_point():
        return logits - targets * margin
    return logits.scatter_add(-1, targets, -margin.to(logits.dtype).expand(len(logits), 1))


def at_target(logits: Tensor, targets: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """What [`lower_target`] changes: logits (N, K) and norms as they are for targets (N, K), the
    target's own (N, 1) for classes (N, 1)."""
    if targets.is_floating_point():
        return logits, norms
    if norms.shape[-1] > 1:
        norms = norms.expand_as(logits).gather(-1, targets)
    return logits.gather(-1, targets), norms


def mam_margin(
    logits: Tensor,
    *,
    epsilon: float | Tensor = 0.2,
    maximum: float = 4.0,
    differentiable: bool = False,
) -> Tensor:
    """The margin of [`mam`] and [`mam_all`], (N, 1), in [0, maximum] (eq. 4.14). Arguments as in
    [`mam`]."""
    _check_range(epsilon, maximum)
    largest, mean = _largest_and_mean(logits if differentiable else logits.detach())
    return _log_margin(largest - mean, epsilon, maximum)


def _log_margin(largest: Tensor, epsilon: float | Tensor, maximum: float) -> Tensor:
    # Largest centred logit >= 0 and epsilon > 0, so the logarithm's argument is positive.
    return (largest + epsilon).log().clamp(0.0, maximum)


def _check_range(epsilon: float | Tensor, maximum: float) -> None:
    if not isinstance(epsilon, Tensor) and epsilon <= 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
    if maximum <= 0:
        raise ValueError(f"maximum must be above 0, got {maximum}")


class _LargestAndMean(torch.autograd.Function):
    """Autograd's own way looks for the largest again, in several passes over (N, K)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
        largest, _, place = two_largest(logits)
        ctx.save_for_backward(place)
        ctx.shape = logits.shape
        return largest, logits.mean(dim=-1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (place,) = ctx.saved_tensors
        of_largest, of_mean = gradients
        return (of_mean / ctx.shape[-1]).expand(ctx.shape).scatter_add(-1, place, of_largest)


def _largest_and_mean(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and mean of the logits (N, K), (N, 1) each. Of equal ones the first gets the
    gradient."""
    if not logits.requires_grad:
        return logits.amax(dim=-1, keepdim=True), logits.mean(dim=-1, keepdim=True)
    largest, mean = _LargestAndMean.apply(logits)
    return largest, mean


def two_largest(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest, second largest and the largest's class, (N, 1) each, of values (N, K)."""
    samples, classes = values.shape
    if classes < 256:
        first, place = values.max(dim=-1, keepdim=True)
        return first, values.scatter(-1, place, -torch.inf).amax(dim=-1, keepdim=True), place
    # `amax` is several times as fast as `max`, which keeps the place: `amax` of each block of
    # classes, and `max` of the blocks and of one block only.
    length = 2 * math.isqrt(classes)
    if classes % length:
        values = F.pad(values, (0, -classes % length), value=-torch.inf)
    blocks = values.unflatten(-1, (-1, length))  # (N, K) -> (N, K / length, length)
    tops = blocks.amax(dim=-1)
    first, block = tops.max(dim=-1, keepdim=True)
    inside = blocks[torch.arange(samples, device=values.device), block.squeeze(-1)]
    place = inside.argmax(dim=-1, keepdim=True)
    next_inside = inside.scatter(-1, place, -torch.inf).amax(dim=-1, keepdim=True)
    second = tops.scatter(-1, block, next_inside).amax(dim=-1, keepdim=True)
    return first, second, block * length + place


# (largest centred logit, log of the mean of e^(centred logit), epsilon) -> margin, (N, 1) each
_Margin = Callable[[Tensor, Tensor, float | Tensor], Tensor]


def _against_rest(
    logits: Tensor, targets: Tensor, epsilon: float | Tensor, margin: _Margin, target_only: bool
) -> Tensor:
    """log r (N, K), or log r_y (N, 1) of classes y (N, 1), where r_k = q_k / sum(q) and
    q_k = e^(z_k - m) / (e^(z_k - m) + sum over j != k of e^z_j).

    With p = softmax(z) and c = 1 - e^-m that is q_k e^m = p_k / (1 - c p_k). The largest class is
    kept apart, in logarithms: nothing cancels where its p rounds to 1, and nothing is lost where
    those of the others, b e_k with e_k at most 1, underflow.
    """
    if target_only:
        epsilon = epsilon if isinstance(epsilon, Tensor) else logits.new_tensor(epsilon)
        own: Tensor = _OwnAgainstRest.apply(logits, targets, epsilon, margin)
        return own
    place = two_largest(logits.detach())[2]
    first, mean = logits.gather(-1, place), logits.mean(dim=-1, keepdim=True)
    others = logits.scatter(-1, place, -torch.inf)
    log_e = F.log_softmax(others, dim=-1)
    log_odds = torch.logsumexp(others, dim=-1, keepdim=True) - first  # log((1 - p_1) / p_1)
    log_mean_exp = first - mean + F.softplus(log_odds) - math.log(logits.shape[-1])
    m = margin(first - mean, log_mean_exp, epsilon)
    log_b = F.logsigmoid(log_odds)
    bc = -torch.expm1(-m) * log_b.exp()
    log_first = -torch.logaddexp(log_odds, -m)  # log(p_1 / (1 - c p_1))
    log_others = log_b + log_e - torch.log1p(-bc * log_e.exp())
    return F.log_softmax(log_others.scatter(-1, place, log_first), dim=-1)


class _OwnAgainstRest(torch.autograd.Function):
    """`_against_rest` at the targets' classes: fewer passes over (N, K), and no logarithm in
    them."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, epsilon: Tensor, margin: _Margin
    ) -> Tensor:
        first, second, place = two_largest(logits)
        mean = logits.mean(dim=-1, keepdim=True)
        e = power_of_e_(logits - second).scatter_(-1, place, 0.0)
        e_sum = e.sum(dim=-1, keepdim=True)
        log_odds = second - first + e_sum.log()
        log_mean_exp = first - mean + F.softplus(log_odds) - math.log(logits.shape[-1])
        with torch.enable_grad():
            read = [
                item.detach().requires_grad_() for item in (first - mean, log_mean_exp, epsilon)
            ]
            margins = margin(*read)
        m = margins.detach()
        log_b = F.logsigmoid(log_odds) - e_sum.log()
        bc = -torch.expm1(-m) * log_b.exp()
        f = e.reciprocal().sub_(bc).reciprocal_()  # e / (1 - bc e)
        f_sum = f.sum(dim=-1, keepdim=True)
        log_first = -torch.logaddexp(log_odds, -m)
        log_sum = torch.logaddexp(log_first, log_b + f_sum.log())
        log_own = logits.gather(-1, classes) - second + log_b
        log_own = log_own - torch.log1p(-bc * e.gather(-1, classes))
        ctx.margin, ctx.margins = margin, (read, margins)
        ctx.save_for_backward(
            *(logits, classes, epsilon, place, e, e_sum, f, f_sum),
            *(log_odds, log_b, bc, log_first, log_sum),
        )
        return torch.where(classes == place, log_first, log_own) - log_sum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, classes, epsilon, place, e, e_sum, f, f_sum, *rows = ctx.saved_tensors
        log_odds, log_b, bc, log_first, log_sum = rows
        (gradient,) = gradients
        if torch.is_grad_enabled():  # a second derivative is asked for: the plain formula's
            all_own = _against_rest(logits, classes, epsilon, ctx.margin, target_only=False)
            wanted = [i for i in (0, 2) if ctx.needs_input_grad[i]]
            found = torch.autograd.grad(
                all_own.gather(-1, classes),
                [(logits, classes, epsilon)[i] for i in wanted],
                gradient,
                create_graph=True,
                materialize_grads=True,
            )
            return tuple(dict(zip(wanted, found, strict=True)).get(i) for i in range(4))
        read, margins = ctx.margins
        m, b, first_p = margins.detach(), log_b.exp(), torch.sigmoid(-log_odds)
        b_over_sum = (log_b - log_sum).exp()
        f_own = f.gather(-1, classes)
        f_squares = torch.linalg.vector_norm(f, dim=-1, keepdim=True).square()
        is_first = classes == place
        # [k = y] - r_k of the largest class, k = 1
        of_first = torch.where(is_first, b_over_sum * f_sum, -(log_first - log_sum).exp())
        # Times d log q_k / d log p_k = 1 / (1 - c p_k), in which 1 - p_1 is left out for k = 1
        slope_first = of_first * torch.sigmoid(log_odds + m)
        slope_own = torch.where(is_first, 0.0, 1 + bc * f_own)
        slope_others = slope_own - b_over_sum * (f_sum + bc * f_squares)
        # Times d log q_k / d m = p_k e^-m / (1 - c p_k)
        slope_m = of_first * torch.sigmoid(-log_odds - m)
        slope_m = slope_m + (log_b - m).exp() * (f_own - b_over_sum * f_squares)
        of_largest, of_mean_exp, of_epsilon = torch.autograd.grad(
            margins, read, gradient * slope_m, retain_graph=True, materialize_grads=True
        )
        # dz_k = g [k = y] / (1 - c p_k) + u f_k (1 + bc f_k) + v e_k - w / K of all but the largest
        u = -gradient * b_over_sum
        v = of_mean_exp * b - gradient * (slope_first / e_sum + b * slope_others)
        w = of_largest + of_mean_exp
        of_logits = (f * (bc * u)).add_(u).mul_(f).addcmul_(e, v).sub_(w / logits.shape[-1])
        of_logits.scatter_add_(-1, classes, gradient * slope_own)
        of_place = of_largest + first_p * (of_mean_exp - gradient * slope_others)
        of_logits.scatter_add_(-1, place, of_place + gradient * slope_first)
        return of_logits, None, of_epsilon, None


def power_of_e(values: Tensor, times: float = 1.0) -> Tensor:
    """e^(times * values), without a gradient. By exp2: torch's exp, where it is MKL's, takes twice
    as long."""
    return torch.mul(values, times / math.log(2)).exp2_()


def power_of_e_(values: Tensor) -> Tensor:
    """e^values in their place, which spares large ones another piece of memory."""
    return values.mul_(1 / math.log(2)).exp2_()


# --------------------------------------------------------------------------------------------------
# Losses: (log-probabilities (N, K), targets (N, K)) -> one loss a sample (N,)
# --------------------------------------------------------------------------------------------------


def cross_entropy(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, (N,), of log-probabilities (N, K) against targets: (N, K) float whose
    rows sum to 1, or (N, 1) int64 classes."""
    if not targets.is_floating_point():
        return -log_probs.gather(-1, targets).squeeze(-1)
    return -(targets * log_probs).sum(dim=-1)


def sce(
    log_probs: Tensor, targets: Tensor, *, ce_weight: float = 0.5, proposed_weight: float = 0.5
) -> Tensor:
    """The thesis's modified cross-entropy, SCE (eq. 4.3 to 4.6, Figure 4.1), (N,).

    `alpha` is a mean over the batch and its classes, so micro-batches and several processes each
    see their own.
    `alpha` and `weight` are differentiated. For one-hot targets `weight` is sqrt(K) at a perfect
    prediction and sqrt(K - 2) at a confident wrong one: it does not shrink with confidence, as the
    text has it; `alpha` does. Not the symmetric cross-entropy of Wang et al. (2019), which shares
    the acronym.

    Args:
        log_probs: (N, K) float.
        targets: (N, K) float, rows sum to 1, or (N, 1) int64 classes.
        ce_weight, proposed_weight: alpha and beta of eq. 4.6.
    """
    classes = log_probs.shape[-1]
    if not targets.is_floating_point() and classes == 2:
        # The closed form cancels to 0 where a confident answer is wrong.
        targets = as_targets(targets.squeeze(-1), log_probs)
    if targets.is_floating_point():
        probs = log_probs.exp()
        alpha = (targets - probs).square().mean()  # eq. 4.3
        weight = torch.linalg.vector_norm((1 - targets) - probs, dim=-1)  # eq. 4.4
        ce = cross_entropy(log_probs, targets)
    else:
        # With one-hot t both are sums of p_k^2 and a function of p_y.
        log_own, squares = own_and_squares(log_probs, targets)
        ce, own = -log_own, log_own.exp()
        alpha = (1 - 2 * own + squares).mean() / classes  # eq. 4.3
        weight = (classes - 3 + 2 * own + squares).sqrt()  # eq. 4.4
    proposed = (
        alpha * weight * (ce / math.log(10))
    )  # eq. 4.5, with the figure's minus sign and its log10
    return ce_weight * ce + proposed_weight * proposed  # eq. 4.6


class _OwnAndSquares(torch.autograd.Function):
    """Autograd's own way keeps and passes over four more tensors of (N, K)."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        squares = power_of_e(log_probs, 2)
        ctx.save_for_backward(log_probs, classes, squares)
        return log_probs.gather(-1, classes).squeeze(-1), squares.sum(dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        log_probs, classes, squares = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            squares = (2 * log_probs).exp()
        of_own, of_squares = (gradient.unsqueeze(-1) for gradient in gradients)
        return (squares * (2 * of_squares)).scatter_add_(-1, classes, of_own), None


def own_and_squares(log_probs: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """`log p_y` and `sum_k p_k^2`, (N,) each, of log-probabilities (N, K) and int64 classes
    (N, 1)."""
    own, squares = _OwnAndSquares.apply(log_probs, classes)
    return own, squares


# --------------------------------------------------------------------------------------------------

MARGIN_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "none": no_margin,
    "mam": mam,
    "mam_all": mam_all,
    "mam_figure": mam_figure,
    "mam_verbatim": mam_verbatim,
}
LOSS_FUNCTIONS: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "sce": sce}


# Losses that read no class whose target is 0: with integer labels they get (N, 1), not (N, K).
TARGET_ONLY_LOSSES: set[str] = {"ce"}

# Margins and losses that take integer labels as (N, 1) classes in the place of (N, K) targets.
TAKE_CLASSES: set[str] = {"none", "mam", "mam_all", "mam_figure", "mam_verbatim", "sce"}

# Keyword arguments that [`MarginLoss`] passes itself, to functions that have them.
_PASSED = ("norms", "progress", "target_only")


class MarginLoss(nn.Module):
    """Training loss of logits against labels: a margin, a loss, label smoothing and class weights.

    With class weights `c`, a sample's weight is `w_i = sum_k t_ik c_k` and the loss is `sum_i w_i
    l_i / sum_i w_i`: for hard labels and `ce` that is `F.cross_entropy(weight=c)`. Label smoothing
    changes the targets of the loss, not those of the margin or of the weights. Computed in float32,
    or in float64 for float64 logits.

    Under gradient accumulation the unweighted `ce` is exact. With losses that look at the whole
    batch (`sce`, `sample_ratio`) and with class weights, whose normaliser is a sum over it, each
    micro-batch is scored by itself and then averaged.

    Margins and losses other than this file's are registered by `import emosynthnet_hf`. Without
    them a model that was trained with one loads and predicts; its training loss is an error.

    Args:
        num_labels: K.
        margin, loss: names in `MARGINS` and `LOSSES`.
        margin_kwargs, loss_kwargs: keyword arguments of these functions.
        learnable_epsilon: make the margin's `epsilon` a parameter, `softplus(raw_epsilon)`.
        label_smoothing: in [0, 1).
        class_weights: K numbers, or None.

    Attributes:
        progress: the share of the training that is done, in [0, 1], for what follows a schedule;
            set by `emosynthnet_hf.losses.ProgressCallback`, or by your own loop.

    Raises:
        ValueError: an unknown name or argument, a value out of range, another number of class
            weights than K.
    """

    def __init__(
        self,
        num_labels: int,
        margin: str = "mam",
        loss: str = "sce",
        *,
        margin_kwargs: dict[str, Any] | None = None,
        loss_kwargs: dict[str, Any] | None = None,
        learnable_epsilon: bool = False,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__()
        for kind, name, names in (("margin", margin, MARGINS), ("loss", loss, LOSSES)):
            if name not in names:
                raise ValueError(f"{kind} must be one of {', '.join(names)}, got {name!r}")
        if class_weights is not None and len(class_weights) != num_labels:
            raise ValueError(
                f"class_weights must have {num_labels} entries, one a class, "
                f"got {len(class_weights)}"
            )
        self.margin, self.loss = margin, loss
        self.margin_kwargs, self.loss_kwargs = dict(margin_kwargs or {}), dict(loss_kwargs or {})
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.progress: float | None = None
        self._asks: dict[str, list[str]] = {}  # function -> what it is passed
        # One evaluation each, so that values out of range are found here and not in the first
        # training step.
        targets = torch.eye(2, num_labels)
        passed = {"norms": torch.ones(1, 1), "progress": 0.0, "target_only": False}
        for kind, name, functions, scores, kwargs in (
            ("margin", margin, MARGIN_FUNCTIONS, targets, self.margin_kwargs),
            ("loss", loss, LOSS_FUNCTIONS, F.log_softmax(targets, dim=-1), self.loss_kwargs),
        ):
            if name in functions:
                keywords = _keywords(functions[name])
                _check_kwargs(f"{kind}_kwargs", functions[name], kwargs)
                self._asks[kind] = [key for key in _PASSED if key in keywords]
                functions[name](
                    scores, targets, **kwargs, **{key: passed[key] for key in self._asks[kind]}
                )
        self.raw_epsilon: nn.Parameter | None = None
        if learnable_epsilon:
            self.raw_epsilon = nn.Parameter(torch.tensor(self.initial_raw_epsilon))

    @property
    def initial_raw_epsilon(self) -> float:
        """Inverse softplus of the configured epsilon."""
        return math.log(math.expm1(self.margin_kwargs.get("epsilon", 0.2)))

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        norms: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            logits: (N, K) float, margin-free.
            labels: (N,) integer classes, or (N, K) float probabilities.
            num_items_in_batch: label elements in all micro-batches of the step, as transformers'
                Trainer counts them (samples for integer labels, samples times K for soft ones).
                None: this batch is all of it.
            norms: for angular margins, what the cosines are multiplied by to give `logits`,
                broadcastable to (N, K).

        Returns:
            Scalar loss.

        Raises:
            RuntimeError: a margin or loss of the package that is not imported; a schedule without
                progress.
            ValueError: labels of another shape or dtype; an angular margin without norms.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        classes = _as_classes(labels, logits)
        spared = {self.margin, self.loss} <= TAKE_CLASSES | TARGET_ONLY_LOSSES
        if classes is not None and spared and self.label_smoothing == 0:
            margin_targets = targets = classes
        else:
            targets = as_targets(labels, logits)
            margin_targets = targets
            if classes is not None and self.margin in TAKE_CLASSES:
                margin_targets = classes
        margin = _registered("margin", self.margin, MARGIN_FUNCTIONS)
        loss = _registered("loss", self.loss, LOSS_FUNCTIONS)
        # A loss that reads the label's log-probability alone.
        own_alone = (
            classes is not None and self.loss in TARGET_ONLY_LOSSES and self.label_smoothing == 0
        )
        margin_kwargs = self.margin_kwargs | self._passed("margin", norms, own_alone)
        loss_kwargs = self.loss_kwargs | self._passed("loss", norms, own_alone)
        if self.raw_epsilon is not None:
            margin_kwargs = margin_kwargs | {"epsilon": F.softplus(self.raw_epsilon)}

        log_probs = margin(logits, margin_targets, **margin_kwargs)
        if self.label_smoothing > 0:
            smoothed = (
                targets * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[-1]
            )
            losses = loss(log_probs, smoothed, **loss_kwargs)
        elif classes is not None and own_alone:
            own = log_probs
            if not margin_kwargs.get("target_only"):
                own = log_probs.gather(-1, classes)  # (N, K) -> (N, 1)
            losses = loss(own, torch.ones_like(own), **loss_kwargs)
        elif self.loss in TAKE_CLASSES and classes is not None:
            losses = loss(log_probs, classes, **loss_kwargs)
        else:
            losses = loss(log_probs, targets, **loss_kwargs)

        if self.class_weights is None:
            mean = losses.mean()
        else:
            by_class = logits.new_tensor(self.class_weights)
            weights = targets @ by_class if classes is None else by_class[classes.squeeze(-1)]
            # A batch of only zero-weight classes has nothing to learn from: 0, not 0 / 0.
            mean = (weights * losses).sum() / weights.sum().clamp_min(
                torch.finfo(losses.dtype).tiny
            )
        if num_items_in_batch is None:
            return mean
        return mean * (labels.numel() / num_items_in_batch)

    def _passed(self, kind: str, norms: Tensor | None, target_only: bool) -> dict[str, Any]:
        values = {"norms": norms, "progress": self.progress, "target_only": target_only}
        passed: dict[str, Any] = {}
        for key in self._asks[kind]:
            value = values[key]
            if value is None and key == "norms":
                raise ValueError(f"the margin {self.margin!r} needs norms, got None")
            if value is None:
                raise RuntimeError(
                    f"the {kind} {getattr(self, kind)!r} follows a schedule and needs the "
                    f"training's progress: add emosynthnet_hf.losses.ProgressCallback() to the "
                    f"Trainer, or set model.training_loss.progress to a number in [0, 1]"
                )
            passed[key] = value
        return passed


def _registered(
    kind: str, name: str, functions: dict[str, Callable[..., Tensor]]
) -> Callable[..., Tensor]:
    if name not in functions:
        raise RuntimeError(
            f"the {kind} {name!r} is not in this file: its training loss needs "
            f"`pip install emosynthnet-hf` and `import emosynthnet_hf`"
        )
    return functions[name]


def _keywords(function: Callable[..., Tensor]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [item.name for item in parameters if item.kind is item.KEYWORD_ONLY]


def _check_kwargs(
    name: str, function: Callable[..., Tensor], kwargs: dict[str, Any] | None
) -> None:
    allowed = [keyword for keyword in _keywords(function) if keyword not in _PASSED]
    unknown = [key for key in kwargs or {} if key not in allowed]
    if unknown:
        raise ValueError(
            f"{name} of {function.__name__} may hold {', '.join(allowed) or 'nothing'}, "
            f"got {', '.join(unknown)}"
        )


def _as_classes(labels: Tensor, logits: Tensor) -> Tensor | None:
    """Integer labels (N,) as (N, 1) int64; None for others."""
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        return None
    return labels.long().unsqueeze(-1)


def as_targets(labels: Tensor, logits: Tensor) -> Tensor:
    """Integer classes (N,), or probabilities (N, K), as probabilities (N, K) in the dtype of logits
    (N, K).

    Raises:
        ValueError: another shape or dtype.
        RuntimeError: a class below 0 or above K - 1 (torch's own check).
    """
    num_samples, num_classes = logits.shape
    if labels.shape == (num_samples,) and not labels.is_floating_point():
        return torch.zeros_like(logits).scatter(-1, labels.long().unsqueeze(-1), 1.0)
    if labels.shape == (num_samples, num_classes) and labels.is_floating_point():
        return labels.to(logits.dtype)
    raise ValueError(
        f"labels must be integers of shape ({num_samples},) or float probabilities of shape "
        f"({num_samples}, {num_classes}), got {labels.dtype} of shape {tuple(labels.shape)}"
    )


__all__ = [
    "LOSS_FUNCTIONS",
    "MARGIN_FUNCTIONS",
    "TAKE_CLASSES",
    "TARGET_ONLY_LOSSES",
    "MarginLoss",
    "as_targets",
    "at_target",
    "cross_entropy",
    "lower_target",
    "mam",
    "mam_all",
    "mam_figure",
    "mam_margin",
    "mam_verbatim",
    "no_margin",
    "own_and_squares",
    "power_of_e",
    "power_of_e_",
    "sce",
    "two_largest",
]
