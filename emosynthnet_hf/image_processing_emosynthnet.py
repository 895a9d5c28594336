"""Image processor of EmoSynthNet: any picture -> pixel values of the side and channels that a
checkpoint expects."""

import io
import os
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

ARRAY_CHANNELS = (1, 2, 3, 4)  # grey, grey + alpha, RGB, RGB + alpha


def read_image(source: bytes | str | os.PathLike[str]) -> Image.Image:
    """A picture file, given by path or as its bytes, decoded to its last pixel (of the first
    frame).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, a damaged one, or one of more pixels than Pillow allows.
    """
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        image.load()
    except FileNotFoundError:
        raise
    # For broken files Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
    except Exception as error:
        name = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
        raise ValueError(f"{name}: not a picture that Pillow can read: {error}") from error
    return image


def to_pil(image: Any, input_data_format: str | None = None) -> Image.Image:
    """A picture given as PIL image, numpy array or torch tensor, as PIL image, the right way up.

    Args:
        image: PIL image of any mode, whose EXIF orientation is applied; or an array of shape (H,
            W), (H, W, C) or (C, H, W) with C in 1 to 4, uint8, uint16, bool or float in [0, 1].
        input_data_format: `channels_first` or `channels_last`, for shapes that could be either.

    Raises:
        TypeError: another type.
        ValueError: another shape, dtype or range.
    """
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image)
    if isinstance(image, torch.Tensor):
        # numpy has no bfloat16
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an image must be a PIL image, an array, a tensor, a path, a URL or bytes, "
            f"got {type(image).__name__}"
        )
    array = _channels_last(image, input_data_format)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = _from_unit_range(array)
    elif array.dtype == np.uint16:
        array = _from_16_bit(array)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"an array must be uint8, uint16, bool or float in [0, 1], got {array.dtype}"
        )
    if array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(array)


def to_grey_or_rgb(image: Image.Image, num_channels: int) -> Image.Image:
    """A PIL image of any mode in mode `L` (1 channel, ITU-R 601 luma) or `RGB` (3 channels).

    Transparent pixels are laid on white: the colours that a file keeps under them are arbitrary,
    and white is what people see behind them on pages and in viewers. 16-bit pictures are scaled to
    8 bits, not clipped.

    Raises:
        ValueError: a mode that Pillow cannot convert, or floating-point pixels outside [0, 1].
    """
    if image.mode.startswith("I"):  # I;16, I;16B, and I, as which older Pillow opens 16-bit files
        image = Image.fromarray(_from_16_bit(np.asarray(image)))
    elif image.mode == "F":
        image = Image.fromarray(_from_unit_range(np.asarray(image)))
    elif image.has_transparency_data:
        # Pillow turns premultiplied grey into nothing but LA.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if num_channels == 1 else "RGB")


def _channels_last(array: np.ndarray, input_data_format: str | None) -> np.ndarray:
    if array.ndim == 2 and array.size:
        return array[..., None]
    if array.ndim == 3 and array.size:
        first = array.shape[0] in ARRAY_CHANNELS and array.shape[2] not in ARRAY_CHANNELS
        if input_data_format is not None:
            first = ChannelDimension(input_data_format) == ChannelDimension.FIRST
        array = np.moveaxis(array, 0, -1) if first else array
        if array.shape[-1] in ARRAY_CHANNELS:
            return np.ascontiguousarray(array)
    raise ValueError(
        f"an image must have shape (H, W), (H, W, C) or (C, H, W) with C from 1 to 4, "
        f"got {array.shape}"
    )


def _from_16_bit(array: np.ndarray) -> np.ndarray:
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(f"16-bit pixels must be in [0, 65535], got {array.min()} to {array.max()}")
    return np.round(array / 257).astype(np.uint8)


def _from_unit_range(array: np.ndarray) -> np.ndarray:
    # Written so that not-a-number fails.
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"floating-point pixels must be in [0, 1], got {array.min()} to {array.max()}"
        )
    return np.round(array * 255).astype(np.uint8)


class EmoSynthNetImageProcessorKwargs(ImagesKwargs, total=False):
    """
    num_channels (`int`):
        1 for grey, 3 for RGB.
    """

    num_channels: int


class EmoSynthNetImageProcessor(PilBackend):
    r"""
    Turns pictures into `pixel_values`, float32 of shape (N, num_channels, height, width).

    Takes one picture or a list: PIL images of any mode, numpy arrays and torch tensors (see
    `to_pil`), paths, encoded bytes or URLs. In order: EXIF orientation, 8 bits, transparency onto
    white, grey or RGB, antialiased resizing to `size`, padding, rescaling, normalisation.
    Everything below is saved with a checkpoint and can be overridden in a call.

    Pixels are 0 to 255 before rescaling, whatever they came from: arrays of floats in [0, 1] need
    `do_rescale` as all others do. With neither rescaling nor normalisation the output is uint8.
    What transformers itself reads, URLs and whatever goes into a `pipeline`, it turns into RGB
    first, without regard to transparency or 16 bits.

    Args:
        size (`dict[str, int]`, defaults to `{"height": 48, "width": 48}`): height and width of the
            output in pixels; the aspect ratio is not kept.
        num_channels (`int`, defaults to 1): 1 for grey, 3 for RGB.
        resample (`PILImageResampling`, defaults to `BILINEAR`): Pillow's filters are antialiased
            when they shrink.
        do_resize (`bool`, defaults to `True`).
        do_pad, pad_size (defaults to `False`, `None`): pad with black evenly on all sides. For
            MNIST, 28 x 28: `do_resize=False, do_pad=True, pad_size={"height": 32, "width": 32}`.
        do_rescale, rescale_factor (defaults to `True`, 1/255).
        do_normalize, image_mean, image_std (defaults to `True`, 0.5, 0.5): one number for all
            channels, or one each.

    Raises:
        ValueError: a picture that cannot be read, or a setting out of range: the message says what
            is allowed.
    """

    valid_kwargs = EmoSynthNetImageProcessorKwargs
    size: ClassVar[dict[str, int]] = {"height": 48, "width": 48}
    num_channels = 1
    resample = PILImageResampling.BILINEAR
    do_resize = True
    do_pad = False
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = 0.5
    image_std = 0.5

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        settings = {name: getattr(self, name, None) for name in self._valid_kwargs_names}
        self._validate_preprocess_kwargs(**settings)

    @classmethod
    def from_model_config(cls, config: Any, **kwargs: Any) -> "EmoSynthNetImageProcessor":
        """The processor for a model of `config.image_size` and `config.num_channels`; `kwargs`
        override the rest."""
        size = {"height": config.image_size, "width": config.image_size}
        return cls(**({"size": size, "num_channels": config.num_channels} | kwargs))

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, bytes | os.PathLike) or (
            isinstance(image_url_or_urls, str) and os.path.isfile(image_url_or_urls)
        ):
            return read_image(image_url_or_urls)
        if isinstance(image_url_or_urls, str):
            return super().fetch_images(image_url_or_urls)
        return image_url_or_urls

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        # The base class takes no (H, W) arrays.
        flat = _flatten(self.fetch_images(images))
        if not flat:
            raise ValueError("images must hold at least one picture, got none")
        return flat

    def process_image(  # type: ignore[override]
        self, image: Any, input_data_format: str | None = None, num_channels: int = 1, **kwargs: Any
    ) -> np.ndarray:
        """One picture as uint8 (num_channels, H, W), not yet resized."""
        array = np.asarray(to_grey_or_rgb(to_pil(image, input_data_format), num_channels))
        return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)

    def _validate_preprocess_kwargs(  # type: ignore[override]
        self, **kwargs: Any
    ) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        num_channels = kwargs["num_channels"]
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 1 (grey) or 3 (RGB), got {num_channels}")
        for name, used in (("size", kwargs["do_resize"]), ("pad_size", kwargs["do_pad"])):
            sides = dict(kwargs[name] or {})
            if used and not (set(sides) == {"height", "width"} and min(sides.values()) >= 1):
                raise ValueError(f"{name} must be a height and a width of at least 1, got {sides}")
        for name in ("image_mean", "image_std"):
            length = np.size(kwargs[name])
            if kwargs["do_normalize"] and length not in (1, num_channels):
                raise ValueError(
                    f"{name} must be one number or {num_channels}, one a channel, got {length}"
                )
        if kwargs["do_normalize"] and not np.all(np.asarray(kwargs["image_std"]) > 0):
            raise ValueError(f"image_std must be above 0, got {kwargs['image_std']}")
        for name, instead in (("do_convert_rgb", "num_channels=3"), ("do_center_crop", "size")):
            if kwargs[name]:
                raise ValueError(f"{name} is not supported, got {kwargs[name]}: use {instead}")

    def _preprocess(  # type: ignore[override]
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_pad: bool,
        pad_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        pixel_values = []
        for image in images:
            if do_resize:
                image = _resize(image, (size["width"], size["height"]), resample)
            if do_pad:
                image = _pad(image, pad_size)
            if do_rescale:
                image = image.astype(np.float32) * np.float32(rescale_factor)
            if do_normalize:
                # (C,) -> (C, 1, 1)
                mean, std = (
                    np.asarray(value, dtype=np.float32).reshape(-1, 1, 1)
                    for value in (image_mean, image_std)
                )
                image = (image - mean) / std
            pixel_values.append(image)
        return BatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)


def _flatten(images: Any) -> list[Any]:
    """One picture, an array of them (N, ...) or nested lists -> a list of pictures."""
    if isinstance(images, list | tuple):
        return [single for image in images for single in _flatten(image)]
    if getattr(images, "ndim", 0) == 4:
        return list(images)
    return [images]


def _resize(image: np.ndarray, width_height: tuple[int, int], resample: Any) -> np.ndarray:
    """uint8 (C, H, W) -> uint8 (C, height, width)."""
    if image.shape[:0:-1] == width_height:
        return image
    channels = [
        np.asarray(Image.fromarray(channel).resize(width_height, resample)) for channel in image
    ]
    return np.stack(channels)


def _pad(image: np.ndarray, pad_size: SizeDict) -> np.ndarray:
    """(C, H, W) -> (C, pad_size.height, pad_size.width), black added evenly, the odd pixel at the
    bottom and right."""
    height, width = pad_size.height - image.shape[1], pad_size.width - image.shape[2]
    if height < 0 or width < 0:
        raise ValueError(
            f"pad_size must be at least the picture's size, got {pad_size.height} x "
            f"{pad_size.width} for a picture of {image.shape[1]} x {image.shape[2]}"
        )
    return np.pad(
        image, ((0, 0), (height // 2, height - height // 2), (width // 2, width - width // 2))
    )


__all__ = ["EmoSynthNetImageProcessor", "read_image", "to_grey_or_rgb", "to_pil"]
