"""EmoSynthNet in the browser: a picture in; each face's expression, and the reason for it, out.

    python space/app.py

serves the page. EMOSYNTHNET_MODEL names the checkpoint, a folder or a Hub id, by default the one
that comes with the repository; EMOSYNTHNET_DETECTOR the face detector
(`emosynthnet_hf.faces.load_detector`).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from emosynthnet_hf.explain import DEFAULT_LAYER, LAYERS, METHODS
from emosynthnet_hf.faces import Picture
from emosynthnet_hf.overlay import overlay_on_picture
from page import (
    render_heading,
    render_maps,
    render_message,
    render_notes,
    render_result,
    render_welcome,
)
from pictures import OpenedPicture, PictureError, open_picture, with_boxes
from recognition import Analysis, Recognizer

HERE = Path(__file__).resolve().parent
BUNDLED_CHECKPOINT = HERE.parent / "checkpoints" / "emosynthnet-small-fer2013"
HUB_CHECKPOINT = "emosynthnet/emosynthnet-small-fer2013"

MAX_FILE_SIZE = "20mb"
# The server's folder of uploads is swept this often of files of this age.
SWEEP_SECONDS, KEPT_SECONDS = 60, 600
# Detector and network serve one caller at a time; the others wait, up to a number.
MAX_WAITING = 32
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}


class Service:
    """What the page and the API do with a file."""

    def __init__(self, recognizer: Recognizer, name: str) -> None:
        self._recognizer = recognizer
        self._name = name

    def show(
        self, upload: dict[str, Any] | None, whole: bool = False
    ) -> tuple[str, str, Any, Tensor | None]:
        """Message, result, button and crops of the page for an uploaded file, as Gradio passes it.

        The crops, (N, C, m, m) as the network reads them, are what `show_maps` and `show_score` go
        back to.
        """
        welcome, no_button = render_welcome(self._recognizer.of_faces), gr.update(visible=False)
        if upload is None:
            return "", welcome, no_button, None
        try:
            opened = open_picture(upload["path"])
        except PictureError as error:
            return render_message(str(error)), welcome, no_button, None
        analysis = self._recognizer.analyze(opened.pixels, whole=whole)
        if not analysis.findings:
            lines = (
                "No face was found in this picture.",
                "If it shows one face from close up, it can be read as a whole.",
                *opened.notes,
            )
            return render_message(*lines), welcome, gr.update(visible=True), None
        message = render_message(self._found(analysis, whole), *opened.notes)
        result = render_result(analysis, self._recognizer.checks, self._name)
        crops = torch.stack([finding.pixel_values for finding in analysis.findings])
        return message, result, no_button, crops

    def show_maps(self, crops: Tensor | None, event: gr.EventData) -> Any:
        """For a choice on the page, every class's map of the chosen face."""
        crop, choice = self._chosen(crops, event)
        explanation = self._recognizer.explain(crop, choice["method"], choice["layer"])
        return gr.update(maps=choice | {"pictures": render_maps(explanation.maps)})

    def show_score(self, crops: Tensor | None, event: gr.EventData) -> Any:
        """For a choice on the page, the deletion scores of the chosen map and of random maps."""
        crop, choice = self._chosen(crops, event)
        explanation = self._recognizer.explain(crop, choice["method"], choice["layer"])
        deletion = self._recognizer.deletion(explanation, choice["label"])
        return gr.update(score=choice | {"deletion": vars(deletion)})

    def _chosen(self, crops: Tensor | None, event: gr.EventData) -> tuple[Tensor, dict[str, Any]]:
        """The crop that a choice is about, and the choice, checked: {face, label, method, layer},
        the first two as numbers from 0, and `ask`, by which page.js knows the answer again."""
        if crops is None:
            raise gr.Error("The picture is no longer on the server. Add it again.")
        allowed: dict[str, Sequence[Any]] = {
            "face": range(len(crops)),
            "label": range(len(self._recognizer.labels)),
            "method": METHODS,
            "layer": LAYERS,
        }
        choice = {key: getattr(event, key, None) for key in (*allowed, "ask")}
        for key, values in allowed.items():
            if choice[key] not in values:
                raise gr.Error(f"{key} must be one of {list(values)}, got {choice[key]!r}.")
        return crops[choice["face"]], choice

    def _found(self, analysis: Analysis, whole: bool) -> str:
        if not self._recognizer.of_faces:
            return "This checkpoint does not know faces: it reads the whole picture."
        if whole:
            return "No face was found: the whole picture is read as one."
        count = len(analysis.findings)
        text = "One face found." if count == 1 else f"{count} faces found."
        if analysis.faces_left_out:
            text += f" {analysis.faces_left_out} smaller ones were left out."
        return text

    def classify(self, picture: str, whole_picture: bool = False) -> dict[str, Any]:
        """Expressions of the faces in a picture, the largest face first. `whole_picture` reads the
        picture as one face. Boxes are left, top, right, bottom in pixels of the upright picture."""
        opened = _open(picture)
        analysis = self._recognizer.analyze(opened.pixels, whole=whole_picture)
        faces = [
            {
                "number": number,
                "box": [round(opened.scale * edge, 1) for edge in finding.box],
                "face_box": finding.face
                and [round(opened.scale * edge, 1) for edge in finding.face.box],
                "detection_score": finding.face and round(finding.face.score, 3),
                "label": analysis.labels[finding.top],
                "probabilities": {
                    label: round(float(value), 4)
                    for label, value in zip(analysis.labels, finding.probabilities, strict=True)
                },
            }
            for number, finding in enumerate(analysis.findings, start=1)
        ]
        width, height = opened.size
        return {"width": width, "height": height, "notes": list(opened.notes), "faces": faces}

    def explain(
        self,
        picture: str,
        face: int = 1,
        label: str | None = None,
        whole_picture: bool = False,
        method: str = METHODS[0],
        layer: str = DEFAULT_LAYER,
    ) -> Picture:
        """The picture with numbered boxes and, in one of them, what spoke for a label.
        `face` is its number, as /classify has it; `label` is by default its most probable one.
        `method` is grad_cam, guided_backpropagation or guided_grad_cam; `layer` is where the two
        that have "grad_cam" in their name look."""
        analysis = self._recognizer.analyze(_open(picture).pixels, whole=whole_picture)
        count = len(analysis.findings)
        if not count:
            raise gr.Error("No face was found in this picture.")
        if not 1 <= face <= count:
            raise gr.Error(f"face must be from 1 to {count}, got {face}.")
        finding = analysis.findings[face - 1]
        index = finding.top if label is None else analysis.labels.index(label)
        maps = self._recognizer.explain(finding.pixel_values, method, layer).maps
        overlaid = overlay_on_picture(analysis.picture, maps[index], finding.box)
        return with_boxes(overlaid, [found.box for found in analysis.findings], face - 1)


def _open(path: str | None) -> OpenedPicture:
    if path is None:
        raise gr.Error("picture is missing.")
    try:
        return open_picture(path)
    except PictureError as error:
        raise gr.Error(str(error)) from error


def default_model() -> str:
    """The environment's checkpoint, else the repository's own, else the Hub's."""
    bundled = str(BUNDLED_CHECKPOINT) if BUNDLED_CHECKPOINT.is_dir() else HUB_CHECKPOINT
    return os.environ.get("EMOSYNTHNET_MODEL", bundled)


def example_picture() -> Picture:
    """NASA's portrait of Eileen Collins (public domain), which comes with scikit-image."""
    from skimage import data

    picture: Picture = data.astronaut()
    return picture


def build_app(model: str, detector: str = "auto") -> gr.Blocks:
    """The page and its API for a checkpoint, a folder or a Hub id, which is loaded here."""
    recognizer = Recognizer(model, detector)
    service = Service(recognizer, Path(model).name)
    with gr.Blocks(
        title="EmoSynthNet",
        analytics_enabled=False,
        delete_cache=(SWEEP_SECONDS, KEPT_SECONDS),
    ) as app:
        crops = gr.State(None, time_to_live=KEPT_SECONDS)
        gr.HTML(render_heading(recognizer.of_faces), elem_id="heading")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                picture = gr.Image(
                    label="Your picture",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    buttons=[],
                    height=260,
                    elem_id="picture",
                    alt_text="The picture that you added",
                )
                example = gr.Button("Try an example", elem_id="example")
                whole = gr.Button(
                    "Read the whole picture as one face",
                    variant="primary",
                    visible=False,
                    elem_id="whole",
                )
            with gr.Column(scale=3, min_width=320):
                message = gr.HTML("", elem_id="message")
                result = gr.HTML(
                    render_welcome(recognizer.of_faces),
                    js_on_load=(HERE / "page.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                    elem_id="result",
                    maps=None,
                    score=None,
                )
        calibrated = recognizer.model.config.temperature != 1.0
        notes = render_notes(Path(model).name, recognizer.of_faces, calibrated)
        gr.HTML(notes, elem_id="notes")

        # Without preprocessing, or gr.Image would open the file itself and fail on what is none.
        event: dict[str, Any] = {
            "inputs": picture,
            "outputs": [message, result, whole, crops],
            "preprocess": False,
            "api_visibility": "private",
            "show_progress_on": result,
            **ONE_AT_A_TIME,
        }
        picture.change(service.show, trigger_mode="always_last", **event)
        whole.click(lambda upload: service.show(upload, whole=True), **event)
        for listen, answer in (
            (result.maps, service.show_maps),
            (result.score, service.show_score),
        ):
            listen(
                answer,
                inputs=crops,
                outputs=result,
                api_visibility="private",
                show_progress="hidden",
                trigger_mode="multiple",
                **ONE_AT_A_TIME,
            )
        example.click(example_picture, outputs=picture, api_visibility="private")
        _add_endpoints(service, recognizer.labels)
    app.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    return app


def _add_endpoints(service: Service, labels: tuple[str, ...]) -> None:
    """/classify and /explain. Their components only give the types: none is on the page."""
    file = gr.File(label="picture", file_count="single", type="filepath", visible=False)
    whole = gr.Checkbox(False, label="whole_picture", visible=False)
    face = gr.Number(1, label="face", precision=0, minimum=1, visible=False)
    label = gr.Dropdown(list(labels), value=None, label="label", visible=False)
    method = gr.Dropdown(list(METHODS), value=METHODS[0], label="method", visible=False)
    layer = gr.Dropdown(list(LAYERS), value=DEFAULT_LAYER, label="layer", visible=False)
    trigger = gr.Button(visible=False)
    trigger.click(
        service.classify,
        [file, whole],
        gr.JSON(label="faces", visible=False),
        api_name="classify",
        **ONE_AT_A_TIME,
    )
    trigger.click(
        service.explain,
        [file, face, label, whole, method, layer],
        gr.Image(label="overlay", format="png", visible=False),
        api_name="explain",
        **ONE_AT_A_TIME,
    )


def launch_options() -> dict[str, Any]:
    """What `launch` needs for this page: its look, its limits, and no watching."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        radius_size="lg",
        font=fonts,  # of the reader's own machine: no font service hears of the visit
        font_mono=["ui-monospace", "monospace"],
    )
    # The theme's own subdued grey is too pale to read.
    theme.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")
    return {
        "theme": theme,
        "css_paths": HERE / "page.css",
        "max_file_size": MAX_FILE_SIZE,
        "enable_monitoring": False,
        "ssr_mode": False,
    }


def main() -> None:
    app = build_app(default_model(), os.environ.get("EMOSYNTHNET_DETECTOR", "auto"))
    app.launch(**launch_options())


if __name__ == "__main__":
    main()
