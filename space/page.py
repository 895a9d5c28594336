"""What the page shows, as HTML: pure functions to strings; page.css and page.js do the rest."""

import base64
import io
import json
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from checks import Checks, verdict
from emosynthnet_hf.explain import DEFAULT_LAYER, LAYERS, METHODS
from emosynthnet_hf.faces import Picture
from emosynthnet_hf.overlay import heat_picture
from recognition import Analysis, Finding

# The photograph is shown at most this wide or high.
SHOWN_SIDE_PIXELS = 1280
QUALITY = 85
METHOD_NAMES = {
    "grad_cam": "Grad-CAM",
    "guided_backpropagation": "Guided backpropagation",
    "guided_grad_cam": "Guided Grad-CAM",
}


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


def render_result(analysis: Analysis, checks: Checks | None, model: str) -> str:
    """The picture with numbered boxes; each crop with its bar chart; every class's map, and how far
    to trust it. Maps of other methods and layers, and scores, page.js asks for."""
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
<div class="result" data-model="{escape(model)}">
  <div class="left">
    <div class="stage">
      <img class="picture" src="{_data_uri(_shrunk(analysis.picture))}" alt="Your picture">
      <img class="heat stage-heat" alt="">{"".join(boxes)}
    </div>
    <div class="below">
      <p class="caption" aria-live="polite"></p>
      <label class="switch"><input type="checkbox" class="heat-switch" checked> Heat map</label>
      <button type="button" class="download">Download PNG</button>
    </div>
  </div>
  <div class="right">
    <div class="thumbs" role="group" aria-label="Choose a face">{"".join(thumbs)}</div>
    {"".join(panels)}
  </div>
  {_why(analysis.labels, checks)}
</div>"""


def render_maps(maps: NDArray[np.float32]) -> list[str]:
    """Maps (K, h, w) as pictures for page.js to lay over a crop, as data URIs."""
    return [_heat_uri(heat_map) for heat_map in maps]


def _why(labels: tuple[str, ...], checks: Checks | None) -> str:
    """Method and layer to choose; the classes side by side; the deletion score and the checks."""
    methods = "".join(
        f'<label><input type="radio" name="method" value="{method}" '
        f'data-name="{METHOD_NAMES[method]}"{" checked" if method == METHODS[0] else ""}>'
        f"<span>{METHOD_NAMES[method].replace('Grad-CAM', '<em>Grad-CAM</em>')}"
        f'<b class="flag"></b></span></label>'
        for method in METHODS
    )
    layers = "".join(
        f'<option value="{layer}"{" selected" if layer == DEFAULT_LAYER else ""} '
        f'data-name="{_layer_name(layer)}">{_layer_name(layer)}</option>'
        for layer in LAYERS
    )
    tiles = "".join(
        f'<button type="button" class="choice tile" role="radio" data-label="{index}">'
        f'<span class="laid"><img class="tile-crop" alt=""><img class="heat tile-heat" alt="">'
        f'</span><span class="name">{escape(label)}</span><span class="percent"></span></button>'
        for index, label in enumerate(labels)
    )
    verdicts = {
        method: {layer: vars(verdict(checks, method, layer)) for layer in LAYERS}
        for method in METHODS
    }
    return f"""
<section class="why" data-verdicts="{escape(json.dumps(verdicts))}">
  <div class="why-head">
    <h2>Why? Each class's map</h2>
    <fieldset class="methods"><legend>Method</legend>{methods}</fieldset>
    <label class="layers">Layer <select class="layer">{layers}</select></label>
  </div>
  <div class="tiles" role="radiogroup" aria-label="Maps of the classes; choose one">{tiles}</div>
  <div class="facts">
    <div class="fact">
      <h3>Deletion score <small>lower is better</small></h3>
      <div class="scores" aria-busy="true">
        <span>This map</span><span class="track"><span class="fill"></span></span>
        <b class="score"></b>
        <span>Random maps</span><span class="track"><span class="fill of-random"></span></span>
        <b class="score-of-random"></b>
      </div>
      <p class="reading" aria-live="polite"></p>
      <p class="quiet">The map's brightest pixels first, more and more of the crop is replaced by
      its mean; the score is the average probability of “<span class="chosen"></span>” meanwhile.
      </p>
    </div>
    <div class="fact">
      <h3>Is the method to be trusted? <span class="badge"></span></h3>
      <p><span class="method-name"></span> <span class="verdict" aria-live="polite"></span></p>
      <p class="quiet">Maps of one picture are scaled one by one: their brightness does not compare.
      </p>
    </div>
  </div>
</section>"""


def _layer_name(layer: str) -> str:
    """`emosynthnet.block3.convs.3` -> `Block 3`."""
    return f"Block {layer.split('.')[1].removeprefix('block')}"


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
        f'<button type="button" class="choice bar" role="radio" data-label="{index}" '
        f'data-name="{escape(label)}" data-value="{probability:.6f}" '
        f'data-heat="{_heat_uri(heat_map)}">'
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
      <figcaption>Its map for <b class="chosen"></b></figcaption></figure>
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
    "render_maps",
    "render_message",
    "render_notes",
    "render_result",
    "render_welcome",
]
