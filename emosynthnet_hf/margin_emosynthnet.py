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
) -> Tensor:
    """Figure 4.1 with the margin of [`mam`]: every class's own logit is lowered in its own ratio
    against the rest, and the K ratios are divided by their sum ("posterior normalisation"). Needs
    no label: `targets` is not read.

    Arguments and return value as in [`mam`].
    """
    margin = mam_margin(logits, epsilon=epsilon, maximum=maximum, differentiable=differentiable)
    return _one_against_rest(logits, margin)


def mam_figure(
    logits: Tensor, targets: Tensor, *, epsilon: float | Tensor = 0.2, maximum: float = 4.0
) -> Tensor:
    """Figure 4.1 to the letter: clip before the log, base 10, and `exp m = mean(exp x) + log10 m`,
    on centred logits.

    The margin is differentiated, as plain code would. Arguments and return value as in [`mam`].
    """
    _check_range(epsilon, maximum)
    centred = _centre(logits)
    clipped = (centred.amax(dim=-1, keepdim=True) + epsilon).clamp(
        torch.finfo(logits.dtype).tiny, maximum
    )
    log_mean_exp = torch.logsumexp(centred, dim=-1, keepdim=True) - math.log(logits.shape[-1])
    # The mean of exp x is at least 1 for centred x and log10(clipped) above -1 for epsilon above
    # 0.1, so their sum is positive; a smaller epsilon can make it negative, where the figure has no
    # margin: bounded below by tiny.
    share = (torch.log10(clipped) * torch.exp(-log_mean_exp)).clamp_min(
        torch.finfo(logits.dtype).eps - 1
    )
    margin = log_mean_exp + torch.log1p(share)
    return _one_against_rest(logits, margin)


def mam_verbatim(
    logits: Tensor, targets: Tensor, *, epsilon: float | Tensor = 0.2, maximum: float = 4.0
) -> Tensor:
    """Eq. 4.14 to 4.16 as printed: logits not centred, margin differentiated. It collapses: when
    all logits drift down, Mean(x) turns the margin into a bonus and the loss vanishes with nothing
    learnt. Kept to show that.

    Arguments and return value as in [`mam`].
    """
    _check_range(epsilon, maximum)
    largest = logits.amax(dim=-1, keepdim=True) + epsilon  # M_v, eq. 4.14
    clipped = (
        largest.clamp_min(torch.finfo(logits.dtype).tiny).log().clamp(0.0, maximum)
    )  # M_l, M_c
    margin = logits.mean(dim=-1, keepdim=True) + clipped  # M_U
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
    if not differentiable:
        logits = logits.detach()
    largest = logits.amax(dim=-1, keepdim=True) - logits.mean(dim=-1, keepdim=True)
    # Largest centred logit >= 0 and epsilon > 0, so the logarithm's argument is positive.
    return (largest + epsilon).log().clamp(0.0, maximum)


def _check_range(epsilon: float | Tensor, maximum: float) -> None:
    if not isinstance(epsilon, Tensor) and epsilon <= 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
    if maximum <= 0:
        raise ValueError(f"maximum must be above 0, got {maximum}")


def _centre(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=-1, keepdim=True)


def _one_against_rest(logits: Tensor, margin: Tensor) -> Tensor:
    """log of q_k / sum(q), where q_k = e^(z_k - m) / (e^(z_k - m) + sum over j != k of e^z_j)."""
    log_p = F.log_softmax(logits, dim=-1)
    # log(1 - p_k): log1p is exact where p_k <= 1/2, which holds for all classes but the largest;
    # that one takes the sum over the others instead, so that nothing cancels when p rounds to 1.
    largest = log_p.argmax(dim=-1, keepdim=True)
    rest = torch.logsumexp(log_p.scatter(-1, largest, -torch.inf), dim=-1, keepdim=True)
    log_not_p = torch.log1p(-log_p.scatter(-1, largest, -torch.inf).exp()).scatter(
        -1, largest, rest
    )
    return F.log_softmax(F.logsigmoid(log_p - log_not_p - margin), dim=-1)


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
        squares = (2 * log_probs).exp_()
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
_PASSED = ("norms", "progress")


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
        passed: dict[str, Any] = {"norms": torch.ones(1, 1), "progress": 0.0}
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
        margin_kwargs = self.margin_kwargs | self._passed("margin", norms)
        loss_kwargs = self.loss_kwargs | self._passed("loss", norms)
        if self.raw_epsilon is not None:
            margin_kwargs = margin_kwargs | {"epsilon": F.softplus(self.raw_epsilon)}

        log_probs = margin(logits, margin_targets, **margin_kwargs)
        if self.label_smoothing > 0:
            smoothed = (
                targets * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[-1]
            )
            losses = loss(log_probs, smoothed, **loss_kwargs)
        elif self.loss in TARGET_ONLY_LOSSES and classes is not None:
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

    def _passed(self, kind: str, norms: Tensor | None) -> dict[str, Any]:
        passed: dict[str, Any] = {}
        for key in self._asks[kind]:
            value = norms if key == "norms" else self.progress
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
    "sce",
]
