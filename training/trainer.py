"""transformers' Trainer on packed pictures, augmented and normalised on the training device."""

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
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
from emosynthnet_hf.data import PackedImages, normalize_batch
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


class WeightAveragingCallback(TrainerCallback):
    """Validates and saves, in the place of the weights, their exponential moving average over steps
    (Polyak and Juditsky, 1992); training goes on with the weights themselves.

    After step t the average moves towards the weights by `1 - min(decay, t / (t + 9))`, so that it
    forgets where training started. The statistics of batch normalisation are averaged as well. The
    weights themselves lie in each checkpoint as `raw.safetensors`, from which a run resumes.

    Args:
        decay: in (0, 1).
    """

    RAW = "raw.safetensors"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.raw: dict[str, Tensor] = {}  # while the model holds the average

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self.average = _copy(_floats(kwargs["model"]))
        if state.global_step > 0:  # resumed
            raw = self._raw_file(args, state)
            if not raw.is_file():
                raise ValueError(
                    f"resuming with ema_decay needs {raw}: without it, remove that folder to "
                    f"resume from the one before"
                )
            _write(_floats(kwargs["model"]), load_file(raw))

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        decay = min(self.decay, state.global_step / (state.global_step + 9))
        averages, weights = list(self.average.values()), list(_floats(kwargs["model"]).values())
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self.raw = _copy(_floats(kwargs["model"]))
        _write(_floats(kwargs["model"]), self.average)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            save_file(self.raw, self._raw_file(args, state))

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        _write(_floats(kwargs["model"]), self.raw)
        self.raw = {}

    def _raw_file(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / self.RAW


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and statistics by name, as they lie in the model; counters are left out."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _write(into: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        into[name].copy_(value)


def average_weights(
    models: Sequence[PreTrainedModel], images: PackedImages, processor: EmoSynthNetImageProcessor
) -> PreTrainedModel:
    """The first of several networks of one architecture, with the mean of their weights (Izmailov
    et al., 2018, stochastic weight averaging). It helps where each was trained from another's
    weights, so that what lies between them is as good as they are.

    The statistics of batch normalisation are those of the mean's own activations, over the pictures
    as they are, in batches drawn without regard to the order of the data.

    Args:
        models: on one device.
        images: the split that they were trained on.
        processor: whose normalisation the weights expect.
    """
    averaged = AveragedModel(models[0])
    for model in models:
        averaged.update_parameters(model)
    result = cast(PreTrainedModel, averaged.module)
    device = result.device

    def batches() -> Iterator[Tensor]:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        for chosen in order.split(128):
            pixel_values = normalize_batch(images.pixels[chosen].to(device), processor)
            yield pixel_values.contiguous(memory_format=torch.channels_last)

    with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16()):
        update_bn(batches(), result)
    return result


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
