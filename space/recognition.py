"""From a picture to expressions and the reasons for them: faces, crops, one batch."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from checks import read_checks
from emosynthnet_hf.data import EXPRESSIONS
from emosynthnet_hf.evaluation import checkpoint_folder
from emosynthnet_hf.explain import grad_cam, heat_maps
from emosynthnet_hf.faces import Box, Face, Picture, crop_box, crop_faces, load_detector
from emosynthnet_hf.faithfulness import deletion_score
from emosynthnet_hf.image_processing_emosynthnet import EmoSynthNetImageProcessor
from emosynthnet_hf.modeling_emosynthnet import EmoSynthNetForImageClassification

# Side of the crops that the page shows: sharper than what the network sees, in the same frame.
SHOWN_CROP_PIXELS = 192
# One batch has to fit in memory; a larger crowd is cut to its largest faces.
MAX_FACES = 64
# Of a guided map's positive values, in per cent: a few pixels outshine all others, and the rest of
# the map would not be seen.
BRIGHTEST = 97


@dataclass(frozen=True)
class Finding:
    """What the network says about one crop.

    Attributes:
        box: of the crop in the picture, (left, top, right, bottom) in its pixels.
        face: as the detector found it, or None where the whole picture is the crop.
        crop: uint8 (SHOWN_CROP_PIXELS, SHOWN_CROP_PIXELS, 3).
        probabilities: (K,), calibrated by the checkpoint's temperature.
        pixel_values: of the crop as the network reads it, (C, m, m).
        maps: Grad-CAM of each class over the crop at the default layer, (K, h, w), at least 0.
    """

    box: Box
    face: Face | None
    crop: Picture
    probabilities: NDArray[np.float32]
    pixel_values: Tensor
    maps: NDArray[np.float32]

    @property
    def top(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())


@dataclass(frozen=True)
class Analysis:
    """A picture, uint8 (height, width, 3), and what was found in it, largest face first."""

    picture: Picture
    labels: tuple[str, ...]
    findings: tuple[Finding, ...]
    faces_left_out: int = 0


@dataclass(frozen=True)
class Explanation:
    """Why the network gives one crop its probabilities, by one method at one layer.

    Attributes:
        pixel_values: the crop, as the network reads it, (C, m, m).
        padded_maps: of each class over that, (K, m, m), at least 0.
        maps: the same for the eye, (K, h, w): over the crop without the processor's padding, and
            those of guided methods cut off at BRIGHTEST.
    """

    pixel_values: Tensor
    padded_maps: Tensor
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Deletion:
    """How faithful a map is on its crop.

    Attributes:
        score: area under the map's deletion curve, in [0, 1].
        random: the mean of random maps' areas, in [0, 1].
        marked: the part of the crop where the map is not 0, in [0, 1]. The rest is deleted in
            random order, as scattered pixels, to which a network is sensitive: the less is marked,
            the less the score is about the map.
    """

    score: float
    random: float
    marked: float


class Recognizer:
    """A checkpoint and, if it knows expressions, a face detector. For one thread at a time.

    Args:
        model: folder or Hub id of an EmoSynthNet checkpoint.
        detector: as for [`load_detector`].

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a record of its explanations' checks that cannot be read.
    """

    def __init__(self, model: str, detector: str = "auto") -> None:
        folder = checkpoint_folder(model)
        self.processor = EmoSynthNetImageProcessor.from_pretrained(folder)
        # Processors without bfloat16 instructions are many times slower in it than in float32.
        self.model = EmoSynthNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()
        self.checks = read_checks(folder)
        self.labels = tuple((self.model.config.id2label or {}).values())
        self.of_faces = set(self.labels) <= set(EXPRESSIONS)
        self._detector = load_detector(detector) if self.of_faces else None

    def analyze(self, picture: Picture, *, whole: bool = False) -> Analysis:
        """Find faces and read them; with `whole`, or without a detector, read all."""
        if whole or self._detector is None:
            height, width = picture.shape[:2]
            crop = _resized(picture, SHOWN_CROP_PIXELS)
            return self._read(
                picture, [picture], [(0.0, 0.0, float(width), float(height))], [None], [crop]
            )
        found = self._detector.detect(picture)
        faces = found[:MAX_FACES]
        if not faces:
            return Analysis(picture, self.labels, ())
        boxes = [crop_box(face) for face in faces]
        crops = crop_faces(picture, faces, self.processor.size["height"])
        shown = crop_faces(picture, faces, SHOWN_CROP_PIXELS)
        analysis = self._read(picture, list(crops), boxes, list(faces), list(shown))
        return replace(analysis, faces_left_out=len(found) - len(faces))

    def explain(self, pixel_values: Tensor, method: str, layer: str) -> Explanation:
        """Every class's map over one crop (C, m, m), by a method of `explain.METHODS` at a layer.

        Raises:
            ValueError: as in `heat_maps`.
        """
        maps = heat_maps(self.model, pixel_values[None], method, layer)
        shown = _without_padding(maps, self.processor)[0].numpy()
        if method != "grad_cam":
            shown = np.stack([_without_outliers(one) for one in shown])
        return Explanation(pixel_values, maps[0], shown)

    def deletion(self, explanation: Explanation, label: int) -> Deletion:
        """How faithful a class's map is on its crop: many forward passes, so only when asked."""
        pixels, labels = explanation.pixel_values[None], torch.tensor([label])
        chosen = explanation.padded_maps[label]
        score, random = deletion_score(self.model, pixels, chosen[None], labels)
        return Deletion(float(score), float(random), float((chosen > 0).float().mean()))

    def _read(
        self,
        picture: Picture,
        crops: list[Picture],
        boxes: list[Box],
        faces: list[Face] | list[None],
        shown: list[Picture],
    ) -> Analysis:
        pixel_values = self.processor(crops, return_tensors="pt")["pixel_values"]
        logits, maps = _logits_and_maps(self.model, pixel_values)
        probabilities = logits.softmax(dim=1).numpy()
        heat = _without_padding(maps, self.processor).numpy()
        findings = zip(boxes, faces, shown, probabilities, pixel_values, heat, strict=True)
        return Analysis(picture, self.labels, tuple(Finding(*parts) for parts in findings))


def _logits_and_maps(
    model: EmoSynthNetForImageClassification, pixel_values: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and Grad-CAM maps (N, K, m, m) of every class from one forward pass."""
    passes: list[Tensor] = []
    hook = model.register_forward_hook(lambda *call: passes.append(call[2].logits.detach()))
    try:
        maps = grad_cam(model, pixel_values)
    finally:
        hook.remove()
    (logits,) = passes
    return logits, maps


def _without_padding(maps: Tensor, processor: EmoSynthNetImageProcessor) -> Tensor:
    """Maps over the picture alone, where the processor pads it on all sides (MNIST)."""
    height, width = processor.size["height"], processor.size["width"]
    top, left = (maps.shape[2] - height) // 2, (maps.shape[3] - width) // 2
    return maps[:, :, top : top + height, left : left + width]


def _without_outliers(heat_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map (h, w), at least 0, with its highest values cut off at the percentile BRIGHTEST."""
    positive = heat_map[heat_map > 0]
    return np.minimum(heat_map, np.percentile(positive, BRIGHTEST)) if positive.size else heat_map


def _resized(picture: Picture, side: int) -> Picture:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


__all__ = [
    "MAX_FACES",
    "SHOWN_CROP_PIXELS",
    "Analysis",
    "Deletion",
    "Explanation",
    "Finding",
    "Recognizer",
]
