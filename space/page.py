"""What the page shows, as HTML: pure functions to strings; page.css and page.js do the rest."""

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emosynthnet_hf.faces import Picture
from emosynthnet_hf.overlay import heat_picture
from recognition import Analysis, Finding

# The photograph is shown at most this wide or high.
SHOWN_SIDE_PIXELS = 1280
QUALITY = 85


def render_heading(of_faces: bool) -> str:
    """Title and what the page is for."""
    lead = (
        "Add a photograph: each face in it is read as one of seven expressions, "
        "and a heat map shows what spoke for any of them."
        if of_faces
        else "Add a picture: it is put into a class, and a heat map shows what spoke for any one."
    )
    return f"<h1>EmoSynthNet</h1><p>{lead}</p>"


def render_notes(model: str, of_faces: bool, calibrated: bool) -> str:
    """What becomes of a picture, what the answer means, and where the weights come from."""
    about_faces = (
        """
  <section><h2>What an expression is not</h2>
    <p>The page names what a face shows at one moment, as people label it. That is not what a person
    feels, thinks or intends, and a confident answer can be wrong.</p></section>
  <section><h2>Where not to use it</h2>
    <p>In the European Union, inferring emotions of people at work or in education is prohibited,
    but for medical or safety reasons: AI Act, Article 5(1)(f).</p></section>"""
        if of_faces
        else ""
    )
    data = (
        " Its weights come from FER-2013, whose pictures are for research only."
        if "fer2013" in model
        else " Its card says which data its weights come from, and what they may be used for."
    )
    calibration = (
        " Percentages are calibrated: of the answers given with 70 %, about 70 % were right on the"
        " pictures held out for that."
        if calibrated
        else ""
    )
    return f"""
<div class="columns">
  <section><h2>Your picture</h2>
    <p>It is read on the machine that serves this page, deleted there within about ten minutes, and
    neither logged nor used for anything else.</p></section>{about_faces}
  <section><h2>The network</h2>
    <p>Checkpoint: {escape(model)}.{data}{calibration}
    Programs can ask it by its <a href="?view=api">API</a>.</p></section>
</div>"""


def render_welcome(of_faces: bool) -> str:
    """The place of the result while there is none."""
    what = "a photograph with one or more faces" if of_faces else "a picture"
    return (
        '<div class="welcome"><p class="welcome-title">Nothing to show yet</p>'
        f"<p>Add {what}, take one with the camera, or try the example.</p></div>"
    )


def render_message(*lines: str) -> str:
    """Sentences for the visitor, which screen readers announce."""
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f'<div class="message" role="status">{paragraphs}</div>'


def render_result(analysis: Analysis) -> str:
    """The picture with numbered boxes; each crop with its bar chart and heat maps, one a class."""
    height, width = analysis.picture.shape[:2]
    boxes, thumbs, panels = [], [], []
    for number, finding in enumerate(analysis.findings):
        crop = _data_uri(finding.crop)
        hint = escape(
            f"{number + 1}: {analysis.labels[finding.top]}, "
            f"{_percent(finding.probabilities[finding.top])}"
        )
        boxes.append(_box(number, finding, hint, (width, height)))
        thumbs.append(_thumb(number, analysis.labels[finding.top], hint, crop))
        panels.append(_panel(number, finding, analysis.labels, crop))
    return f"""
<div class="result">
  <div class="left">
    <div class="stage">
      <img class="picture" src="{_data_uri(_shrunk(analysis.picture))}" alt="Your picture">
      <img class="heat stage-heat" alt="">{"".join(boxes)}
    </div>
    <div class="below">
      <p class="caption" aria-live="polite"></p>
      <label class="switch"><input type="checkbox" class="heat-switch" checked> Heat map</label>
    </div>
  </div>
  <div class="right">
    <div class="thumbs" role="group" aria-label="Choose a face">{"".join(thumbs)}</div>
    {"".join(panels)}
  </div>
</div>"""


def _box(number: int, finding: Finding, hint: str, size: tuple[int, int]) -> str:
    left, top, right, bottom = finding.box
    width, height = size
    place = (
        f"left:{100 * left / width:.3f}%;top:{100 * top / height:.3f}%;"
        f"width:{100 * (right - left) / width:.3f}%;height:{100 * (bottom - top) / height:.3f}%"
    )
    # The number sits on top of its box, or inside where the picture ends.
    kind = "box inside" if top < 0.08 * height else "box"
    return (
        f'<button type="button" class="{kind}" data-face="{number}" style="{place}" title="{hint}" '
        f'aria-label="{hint}"><span>{number + 1}</span></button>'
    )


def _thumb(number: int, label: str, hint: str, crop: str) -> str:
    return (
        f'<button type="button" class="thumb" data-face="{number}" aria-label="{hint}">'
        f'<img src="{crop}" alt=""><span class="number">{number + 1}</span>'
        f'<span class="word">{escape(label)}</span></button>'
    )


def _panel(number: int, finding: Finding, labels: tuple[str, ...], crop: str) -> str:
    bars = "".join(
        f'<button type="button" class="bar" role="radio" data-class="{index}" '
        f'data-name="{escape(label)}" data-heat="{_heat_uri(heat_map)}">'
        f'<span class="name">{escape(label)}</span><span class="track">'
        f'<span class="fill" style="width:{100 * probability:.2f}%"></span></span>'
        f'<span class="percent">{_percent(probability)}</span></button>'
        for index, (label, probability, heat_map) in enumerate(
            zip(labels, finding.probabilities, finding.maps, strict=True)
        )
    )
    return f"""
<div class="panel" data-face="{number}" data-top="{finding.top}">
  <div class="crops">
    <figure><img src="{crop}" alt=""><figcaption>The crop it read</figcaption></figure>
    <figure><div class="laid"><img src="{crop}" alt=""><img class="heat crop-heat" alt=""></div>
      <figcaption>What spoke for <b class="chosen"></b></figcaption></figure>
  </div>
  <div class="bars" role="radiogroup" aria-label="Confidence; choose one to see why">{bars}</div>
</div>"""


def _percent(probability: float) -> str:
    if probability < 0.001:
        return "< 0.1 %"
    if probability > 0.999:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %"


def _shrunk(picture: Picture) -> Picture:
    image = Image.fromarray(picture)
    image.thumbnail((SHOWN_SIDE_PIXELS, SHOWN_SIDE_PIXELS), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _data_uri(picture: Picture) -> str:
    return _encoded(Image.fromarray(picture), "jpeg", quality=QUALITY)


def _heat_uri(heat_map: NDArray[np.float32]) -> str:
    # PNG would be four times the size.
    return _encoded(Image.fromarray(heat_picture(heat_map)), "webp", quality=QUALITY, method=0)


def _encoded(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


__all__ = [
    "render_heading",
    "render_message",
    "render_notes",
    "render_result",
    "render_welcome",
]
