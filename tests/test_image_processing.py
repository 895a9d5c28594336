"""The image processor, held against Pillow and numbers worked by hand."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, dynamic_module_utils, pipeline
from transformers.models.auto import image_processing_auto

from emosynthnet_hf import (
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    EmoSynthNetImageProcessor,
)
from emosynthnet_hf.image_processing_emosynthnet import read_image, to_grey_or_rgb, to_pil

Array = NDArray[Any]


def pixels(image: Any, num_channels: int = 1, **settings: Any) -> Array:
    """Pixels 0 to 255 of one picture, (H, W) or (3, H, W), not resized unless asked for."""
    processor = EmoSynthNetImageProcessor(num_channels=num_channels)
    plain = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    output = processor(image, return_tensors="np", **(plain | settings))["pixel_values"][0]
    return np.squeeze(output, 0) if num_channels == 1 else np.asarray(output)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# --- modes: a picture of one colour, and the grey and RGB values it must have


def constant(mode: str, value: Any) -> Image.Image:
    return Image.new(mode, (4, 3), value)


def palette(mode: str = "P", value: Any = 1) -> Image.Image:
    image = Image.new(mode, (1, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((0, 0), value)
    return image


def transparent(image: Image.Image, colour: int | bytes) -> Image.Image:
    """Declare one colour transparent, or each colour's opacity, as PNG and GIF do."""
    image.info["transparency"] = colour
    return image


MODES = {
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    "1, white": (constant("1", 1), 255, (255, 255, 255)),
    "L": (constant("L", 77), 77, (77, 77, 77)),
    # 100 * 51/255 + 255 * 204/255 = 224
    "LA": (constant("LA", (100, 51)), 224, (224, 224, 224)),
    "La": (constant("LA", (100, 51)).convert("La"), 224, (224, 224, 224)),
    "LA, nothing of it": (constant("LA", (0, 0)), 255, (255, 255, 255)),
    "P": (palette(), 124, (200, 100, 50)),
    "P, transparent": (transparent(palette(), 1), 255, (255, 255, 255)),
    # 200 * 51/255 + 255 * 204/255 = 244, 224, 214; luma 228.8
    "P, at 20 %": (transparent(palette(), bytes([255, 51])), 229, (244, 224, 214)),
    "RGB": (constant("RGB", (200, 100, 50)), 124, (200, 100, 50)),
    "RGB, red": (constant("RGB", (255, 0, 0)), 76, (255, 0, 0)),
    "RGBA": (constant("RGBA", (200, 100, 50, 255)), 124, (200, 100, 50)),
    # 0 * 102/255 + 255 * 153/255 = 153
    "RGBA, black at 40 %": (constant("RGBA", (0, 0, 0, 102)), 153, (153, 153, 153)),
    "RGBa": (constant("RGBA", (0, 0, 0, 102)).convert("RGBa"), 153, (153, 153, 153)),
    "RGBX": (constant("RGBX", (200, 100, 50, 0)), 124, (200, 100, 50)),
    # the palette's second colour at 20 %, as in "P, at 20 %"
    "PA": (palette("PA", (1, 51)), 229, (244, 224, 214)),
    "1, black transparent": (transparent(constant("1", 0), 0), 255, (255, 255, 255)),
    "L, one grey transparent": (transparent(constant("L", 7), 7), 255, (255, 255, 255)),
    # 255 - 100 = 155, 255 - 50 = 205, 255; luma 0.299 * 155 + 0.587 * 205 + 0.114 * 255 = 195.75
    "CMYK": (constant("CMYK", (100, 50, 0, 0)), 196, (155, 205, 255)),
    "CMYK, all key": (constant("CMYK", (0, 0, 0, 255)), 0, (0, 0, 0)),
    # no chroma: grey
    "YCbCr": (constant("YCbCr", (90, 128, 128)), 90, (90, 90, 90)),
    # hue 0, full saturation: red
    "HSV": (constant("HSV", (0, 255, 255)), 76, (255, 0, 0)),
    # 257 = 65535 / 255
    "I;16": (constant("I;16", 100 * 257), 100, (100, 100, 100)),
    "I;16, white": (constant("I;16", 65535), 255, (255, 255, 255)),
    "I": (constant("I", 100 * 257), 100, (100, 100, 100)),
    "F": (constant("F", 0.2), 51, (51, 51, 51)),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str) -> None:
    image, grey, rgb = MODES[name]
    assert (pixels(image) == grey).all()
    assert (pixels(image, 3) == np.reshape(rgb, (3, 1, 1))).all()


def test_16_bit_pictures_are_scaled_and_not_clipped() -> None:
    ramp = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    # 32768 / 257 = 127.502
    expected = [[0, 0, 1, 1, 128, 255]]
    assert pixels(Image.fromarray(ramp)).tolist() == expected
    assert pixels(ramp).tolist() == expected
    assert pixels(encoded(Image.fromarray(ramp))).tolist() == expected
    assert pixels(encoded(Image.fromarray(ramp.astype(">u2")), "TIFF")).tolist() == expected


def test_transparency_of_a_file_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    expected = [[[10, 255]], [[20, 255]], [[30, 255]]]
    assert pixels(encoded(image), 3).tolist() == expected
    image.save(tmp_path / "a.png")
    # A str is read as a Path is, and not by transformers, which would drop the transparency.
    assert pixels(tmp_path / "a.png", 3).tolist() == expected
    assert pixels(str(tmp_path / "a.png"), 3).tolist() == expected
    # One colour of an opaque file declared transparent, as PNG allows
    opaque = encoded(image.convert("RGB"), transparency=(10, 20, 30))
    assert (pixels(opaque) == 255).all()


# --- orientation


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        # The stored pixels are [[1, 2, 3], [4, 5, 6]]; the tag names the side of row 0, column 0.
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
def test_orientation(orientation: int, upright: list[list[int]]) -> None:
    stored = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    assert pixels(data).tolist() == upright
    assert pixels(Image.open(io.BytesIO(data))).tolist() == upright


# --- arrays and tensors


def test_arrays_of_every_layout_and_type_give_the_same_pixels() -> None:
    rgb = noise(6, 5, 3)
    expected = np.moveaxis(rgb, -1, 0)
    floats = rgb / 255
    inputs = (
        rgb,
        expected,
        floats,
        floats.astype(np.float32),
        rgb.astype(np.uint16) * 257,
        np.dstack([rgb, np.full((6, 5), 255, np.uint8)]),
        torch.from_numpy(rgb),
        torch.from_numpy(expected.copy()),
        torch.from_numpy(expected / 255).requires_grad_(),
        Image.fromarray(rgb),
    )
    for image in inputs:
        assert (pixels(image, 3) == expected).all()
    grey = rgb[..., 0]
    for image in (grey, grey[..., None], grey[None], torch.from_numpy(grey.copy()), grey / 255):
        assert (pixels(image) == grey).all()
    # grey and alpha: nothing is opaque, so all is white
    assert (pixels(np.dstack([grey, np.zeros_like(grey)])) == 255).all()
    assert pixels(np.array([[True, False]])).tolist() == [[255, 0]]
    # bfloat16 has 8 bits: 51/255 is 0.2002
    assert pixels(torch.tensor([[0.0, 0.2, 1.0]], dtype=torch.bfloat16)).tolist() == [[0, 51, 255]]


def test_input_data_format_decides_between_two_layouts() -> None:
    image = noise(3, 5, 3)
    assert (pixels(image, 3) == np.moveaxis(image, -1, 0)).all()
    first = pixels(image, 3, input_data_format="channels_first")
    assert (first == image).all()
    with pytest.raises(ValueError, match="not a valid ChannelDimension"):
        pixels(image, 3, input_data_format="somewhere")


def test_one_picture_or_many() -> None:
    processor = EmoSynthNetImageProcessor(size={"height": 8, "width": 8})
    grey, rgb = noise(8, 8), noise(9, 7, 3)
    mixed = [grey, rgb, Image.fromarray(rgb), encoded(Image.fromarray(grey)), torch.tensor(grey)]
    together = processor(mixed, return_tensors="pt")["pixel_values"]
    assert together.shape == (5, 1, 8, 8)
    assert together.dtype == torch.float32
    for row, image in zip(together, mixed, strict=True):
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"][0], row)
    assert torch.equal(together[1], together[2])
    assert torch.equal(together[0], together[3])
    assert torch.equal(together[0], together[4])
    batch = noise(4, 8, 8, 1)
    stacked = processor(batch, return_tensors="np")["pixel_values"]
    assert isinstance(stacked, np.ndarray)
    assert stacked.dtype == np.float32
    assert stacked.shape == (4, 1, 8, 8)
    assert (stacked == processor(list(batch), return_tensors="np")["pixel_values"]).all()
    assert (stacked == processor([list(batch)], return_tensors="np")["pixel_values"]).all()


# --- resizing, padding, rescaling, normalising


def test_grey_is_pillows_luma() -> None:
    rgb = noise(20, 30, 3)
    luma = rgb.astype(np.int64) @ [19595, 38470, 7471]  # ITU-R 601 in units of 2**-16
    assert (pixels(rgb) == (luma + 2**15 >> 16)).all()
    # so grey turned into RGB, as transformers' pipeline does, and back is unchanged
    grey = np.arange(256, dtype=np.uint8)[None]
    assert (pixels(Image.fromarray(grey).convert("RGB")) == grey).all()


def test_shrinking_is_antialiased() -> None:
    # A checkerboard finer than the output has no detail left: half of 0 and 255 everywhere but at
    # the corners, where the weights below leave 255 / 2 / 7**2 = 2.6.
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)
    shrunk = np.abs(pixels(board, do_resize=True) - 127.5)
    assert shrunk[1:-1].max() == 0.5
    assert shrunk.max() <= 2.6
    # By hand: [0, 100, 200, 100] halved. The triangle is 2 wide on each side: weights 3, 3, 1 over
    # 7 for pixel 0 (those left of the picture are dropped), and the mirror image for pixel 1.
    row = np.array([[0, 100, 200, 100]], dtype=np.uint8)
    halved = pixels(row, do_resize=True, size={"height": 1, "width": 2})
    # (3*0 + 3*100 + 1*200) / 7 = 71.4; (1*100 + 3*200 + 3*100) / 7 = 142.9
    assert halved.tolist() == [[71, 143]]


@pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_resizing_is_pillows(resample: Image.Resampling) -> None:
    rgb = noise(50, 70, 3)
    size = {"height": 32, "width": 48}
    expected = np.moveaxis(np.asarray(Image.fromarray(rgb).resize((48, 32), resample)), -1, 0)
    assert (pixels(rgb, 3, do_resize=True, size=size, resample=resample) == expected).all()
    default = np.asarray(Image.fromarray(rgb).resize((48, 32), Image.Resampling.BILINEAR))
    assert (pixels(rgb, 3, do_resize=True, size=size) == np.moveaxis(default, -1, 0)).all()


def test_padding_is_even_and_black() -> None:
    digit = np.full((28, 28), 9, dtype=np.uint8)
    processor = EmoSynthNetImageProcessor(
        do_resize=False, do_pad=True, pad_size={"height": 32, "width": 32}, do_normalize=False
    )
    padded = processor(digit, do_rescale=False, return_tensors="np")["pixel_values"][0, 0]
    assert (padded[2:30, 2:30] == 9).all()
    assert padded.astype(int).sum() == 9 * 28 * 28
    assert padded.shape == (32, 32)
    # The odd pixel goes to the bottom and the right.
    odd = pixels(digit[:1, :1], do_pad=True, pad_size={"height": 2, "width": 4})
    assert odd.tolist() == [[0, 9, 0, 0], [0, 0, 0, 0]]
    # Black before normalisation: (0 - 0.5) / 0.5
    assert processor(digit, do_normalize=True, return_tensors="np")["pixel_values"].min() == -1
    with pytest.raises(ValueError, match=r"at least the picture's size, got 32 x 32 .* of 40 x 28"):
        processor(np.zeros((40, 28), np.uint8))


def test_rescaling_and_normalisation_by_hand() -> None:
    image = np.array([[0, 51, 255]], dtype=np.uint8)
    plain = {"do_resize": False}
    processor = EmoSynthNetImageProcessor(**plain)
    assert processor(image)["pixel_values"][0] == pytest.approx(np.array([[[-1, -0.6, 1]]]))
    only = processor(image, do_normalize=False)["pixel_values"][0]
    assert only == pytest.approx(np.array([[[0, 0.2, 1]]]))
    # two-scale training: 51/512
    half = processor(image, do_normalize=False, rescale_factor=1 / 512)["pixel_values"][0]
    assert half == pytest.approx(np.array([[[0, 0.099609375, 0.498046875]]]))
    rgb = EmoSynthNetImageProcessor(
        num_channels=3, image_mean=[0.2, 0.1, 0.0], image_std=[0.4, 0.1, 2.0], **plain
    )
    # 0.2: (0.2 - 0.2) / 0.4, (0.2 - 0.1) / 0.1, 0.2 / 2
    colour = rgb(np.full((1, 1, 3), 51, np.uint8))["pixel_values"][0].ravel()
    assert colour == pytest.approx([0, 1, 0.1], abs=1e-6)


# --- settings: saved, loaded, overridden


SETTINGS: dict[str, Any] = {
    "size": {"height": 32, "width": 32},
    "num_channels": 3,
    "resample": 3,
    "do_resize": False,
    "do_pad": True,
    "pad_size": {"height": 40, "width": 36},
    "do_rescale": True,
    "rescale_factor": 1 / 512,
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}


def test_settings_survive_saving(tmp_path: Path) -> None:
    processor = EmoSynthNetImageProcessor(**SETTINGS)
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert {name: stored[name] for name in SETTINGS} == SETTINGS
    assert stored["image_processor_type"] == "EmoSynthNetImageProcessor"
    image = noise(30, 28, 3)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 3, 40, 36)
    for cls in (EmoSynthNetImageProcessor, AutoImageProcessor):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is EmoSynthNetImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert torch.equal(loaded(image, return_tensors="pt")["pixel_values"], expected)
    overrides = {"num_channels": 1, "image_mean": 0.0, "image_std": 1.0, "do_pad": False}
    changed = EmoSynthNetImageProcessor.from_pretrained(tmp_path, **overrides)
    assert changed(image)["pixel_values"][0].shape == (1, 30, 28)


def test_a_call_overrides_and_does_not_change_the_processor() -> None:
    processor = EmoSynthNetImageProcessor()
    before = processor.to_dict()
    image = noise(60, 60, 3)
    settings = {"size": {"height": 32, "width": 64}, "num_channels": 3, "do_normalize": False}
    changed = processor(image, return_tensors="pt", **settings)["pixel_values"]
    assert changed.shape == (1, 3, 32, 64)
    assert changed.min() >= 0
    assert processor.to_dict() == before
    assert processor(image, return_tensors="pt")["pixel_values"].shape == (1, 1, 48, 48)


@pytest.mark.parametrize(("side", "num_channels"), [(48, 1), (96, 3)])
def test_it_fits_a_configuration(side: int, num_channels: int) -> None:
    config = EmoSynthNetConfig(image_size=side, num_channels=num_channels)
    processor = EmoSynthNetImageProcessor.from_model_config(config, rescale_factor=1 / 512)
    assert processor(noise(7, 9, 3))["pixel_values"][0].shape == (num_channels, side, side)
    assert processor.rescale_factor == 1 / 512


# --- transformers' own ways in


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = EmoSynthNetConfig(
        image_size=32,
        analysis_widths=[[4] * 4, [4] * 4, [4] * 4, [4] * 3],
        synthesis_widths=[4, 4],
        side_widths=[[4] * 3, [4], [4] * 3],
        dense_widths=[4, 4],
        id2label={0: "happy", 1: "sad"},
        label2id={"happy": 0, "sad": 1},
    )
    EmoSynthNetForImageClassification(config).save_pretrained(folder)
    EmoSynthNetImageProcessor.from_model_config(config).save_pretrained(folder)
    return folder


def test_pipeline_sees_the_processors_pixels(checkpoint: Path, tmp_path: Path) -> None:
    classify = pipeline("image-classification", model=str(checkpoint))
    assert type(classify.image_processor) is EmoSynthNetImageProcessor
    model = EmoSynthNetForImageClassification.from_pretrained(checkpoint).eval()
    processor = EmoSynthNetImageProcessor.from_pretrained(checkpoint)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, image in enumerate((noise(40, 50), noise(40, 50, 3))):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path, exif=exif)
        with torch.no_grad():
            logits = model(**processor(path, return_tensors="pt")).logits[0]
        for given in (str(path), Image.open(path)):
            scores = {entry["label"]: entry["score"] for entry in classify(given)}
            assert [scores["happy"], scores["sad"]] == pytest.approx(
                logits.softmax(-1).tolist(), abs=1e-6
            )


def test_auto_class_takes_it_beside_torchvision(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers prefers a torchvision processor where torchvision is there; there is none here.
    monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: True)
    loaded = AutoImageProcessor.from_pretrained(checkpoint)
    assert type(loaded) is EmoSynthNetImageProcessor


def test_file_works_alone_as_remote_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmoSynthNetImageProcessor, "_auto_class", None)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    # Not registered, as for somebody who has not installed the package
    monkeypatch.setattr(image_processing_auto.IMAGE_PROCESSOR_MAPPING, "_extra_content", {})
    EmoSynthNetImageProcessor.register_for_auto_class()
    processor = EmoSynthNetImageProcessor(num_channels=3)
    folder = tmp_path / "pushed"
    processor.save_pretrained(folder)
    assert (folder / "image_processing_emosynthnet.py").is_file()
    loaded = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded) is not EmoSynthNetImageProcessor
    image = noise(50, 60, 3)
    assert torch.equal(
        loaded(image, return_tensors="pt")["pixel_values"],
        processor(image, return_tensors="pt")["pixel_values"],
    )


# --- errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_channels": 2}, r"num_channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        ({"image_mean": [0.1, 0.2]}, "image_mean must be one number or 1, one a channel, got 2"),
        ({"num_channels": 3, "image_std": [1.0] * 4}, "image_std must be one number or 3.*got 4"),
        ({"image_std": 0.0}, "image_std must be above 0, got 0.0"),
        ({"size": {"shortest_edge": 48}}, "size must be a height and a width.*shortest_edge"),
        ({"size": {"height": 0, "width": 48}}, "size must be .* at least 1, got .*'height': 0"),
        ({"do_pad": True, "pad_size": {"shortest_edge": 3}}, "pad_size must be a height and a"),
        ({"do_pad": True}, "pad_size"),
        ({"do_convert_rgb": True}, "do_convert_rgb is not supported, got True: use num_channels=3"),
        (
            {"do_center_crop": True, "crop_size": {"height": 9, "width": 9}},
            "do_center_crop is not supported",
        ),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmoSynthNetImageProcessor(**settings)
    with pytest.raises(ValueError, match=message):
        EmoSynthNetImageProcessor()(noise(9, 9), **settings)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5, 5), np.uint8), r"C from 1 to 4, got \(5, 5, 5\)"),
        (np.zeros((0, 4), np.uint8), r"got \(0, 4\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.zeros((4, 4), np.int64), r"uint8, uint16, bool or float in \[0, 1\], got int64"),
        (np.full((4, 4), 1.5), r"must be in \[0, 1\], got 1.5 to 1.5"),
        (np.full((4, 4), np.nan), r"must be in \[0, 1\], got nan to nan"),
        (Image.new("F", (4, 4), 200.0), r"must be in \[0, 1\], got 200.0 to 200.0"),
        (Image.new("I", (4, 4), -1), r"must be in \[0, 65535\], got -1 to -1"),
        ([], "images must hold at least one picture, got none"),
        (b"no picture", "10 bytes: not a picture that Pillow can read"),
        ("no/such/file.png", "no/such/file.png"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmoSynthNetImageProcessor()(image)


def test_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="a path, a URL or bytes, got int"):
        EmoSynthNetImageProcessor()([noise(4, 4), 3])


def test_broken_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(Image.fromarray(noise(40, 40, 3)))
    path = tmp_path / "cut.png"
    path.write_bytes(whole[: len(whole) // 2])
    for given in (path, str(path)):
        with pytest.raises(
            ValueError, match=r"cut\.png: not a picture that Pillow can read: .*trunc"
        ):
            EmoSynthNetImageProcessor()(given)
    with pytest.raises(FileNotFoundError):
        EmoSynthNetImageProcessor()(tmp_path / "none.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"1600 pixels\) exceeds limit of 200 pixels"):
        read_image(whole)


def test_helpers_turn_pictures_upright_and_into_the_mode() -> None:
    assert to_pil(noise(3, 4)).size == (4, 3)
    assert to_grey_or_rgb(constant("CMYK", (0, 0, 0, 0)), 3).mode == "RGB"
    assert to_grey_or_rgb(constant("RGB", 0), 1).mode == "L"


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(data) == 10).all()
