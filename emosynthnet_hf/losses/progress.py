"""The seam that tells losses with a schedule how far the training is."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..margin_emosynthnet import MarginLoss


class ProgressCallback(TrainerCallback):
    """Sets `progress` of the model's [`MarginLoss`] to steps done / steps in all, before each step.

    Without a Trainer, set `model.training_loss.progress` to a number in [0, 1] yourself.
    """

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        for module in kwargs["model"].modules():
            if isinstance(module, MarginLoss):
                module.progress = state.global_step / state.max_steps


__all__ = ["ProgressCallback"]
