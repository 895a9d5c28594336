"""transformers' Trainer on packed pictures, augmented and normalised on the training device."""

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from emosynthnet_hf import EmoSynthNetImageProcessor
from emosynthnet_hf.augmentation import Augmentation, augment, mixup
from emosynthnet_hf.data import normalize_batch
from recipe import TwoScale

# Freed memory is kept and huge pages are asked for: without that, page faults on the activations,
# which are allocated anew in every step, took a quarter of a step's time on two cores.
GLIBC_TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
)


def keep_freed_memory() -> None:
    """Start this Python again with `GLIBC_TUNABLES`, which is read at start only (glibc, CPU)."""
    glibc = platform.libc_ver()[0] == "glibc"
    if glibc and not torch.cuda.is_available() and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = GLIBC_TUNABLES
        os.execv(sys.executable, sys.orig_argv)


def has_bfloat16() -> bool:
    """Whether this machine's GPU, or without one its processor, computes in bfloat16 itself."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():  # neither Windows nor macOS says
        return False
    flags = set(cpuinfo.read_text(encoding="utf-8").split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


class ImageTrainer(Trainer):
    """Takes uint8 pictures of `PackedImages`; trains in channels_last.

    Args:
        processor: whose normalisation is applied; saved with every checkpoint.
        augmentation: applied in training only.
        mixup_alpha: above 0, pictures and labels of a training batch are mixed with each other.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        processor: EmoSynthNetImageProcessor,
        augmentation: Augmentation,
        mixup_alpha: float = 0.0,
        **kwargs: Any,
    ) -> None:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        super().__init__(model=model, processing_class=processor, **kwargs)
        self.processor = processor
        self.augmentation, self.mixup_alpha = augmentation, mixup_alpha
        self.num_labels = len(model.config.id2label or {})

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = super()._prepare_inputs(inputs)
        pixels = inputs["pixel_values"]
        if self.model is not None and self.model.training:
            pixels = augment(pixels.float() / 255, self.augmentation) * 255
            if self.mixup_alpha > 0:
                targets = inputs["labels"]
                if targets.ndim == 1:
                    targets = F.one_hot(targets, self.num_labels).float()
                pixels, inputs["labels"] = mixup(pixels, targets, self.mixup_alpha)
        pixel_values = normalize_batch(pixels, self.processor)
        inputs["pixel_values"] = pixel_values.contiguous(memory_format=torch.channels_last)
        return inputs

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        samples, num_items = super().get_batch_samples(*args, **kwargs)
        if num_items is not None and self.mixup_alpha > 0 and samples[0]["labels"].ndim == 1:
            # Counted from N classes, which mixup is about to turn into N x K probabilities.
            num_items = num_items * self.num_labels
        return samples, num_items


class StopwatchCallback(TrainerCallback):
    """Adds `run_seconds` to every entry of the log: time trained so far, over all resumed legs."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        before = state.log_history[-1].get("run_seconds", 0.0) if state.log_history else 0.0
        self.start = time.monotonic() - before

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        state.log_history[-1]["run_seconds"] = round(time.monotonic() - self.start, 1)


class TwoScaleCallback(TrainerCallback):
    """Changes the processor's rescale factor, so that each checkpoint is saved with its own."""

    def __init__(self, processor: EmoSynthNetImageProcessor, two_scale: TwoScale) -> None:
        self.processor, self.two_scale = processor, two_scale

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if round(state.epoch or 0) >= self.two_scale.switch_epoch:
            self.processor.rescale_factor = self.two_scale.rescale_factor
