"""The README's snippets run, one after the other, and its commands are ones that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The Trainer's example is run by test_training.py.
SNIPPETS = re.findall(r"(?<!<!-- trainer-example -->\n)```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
] + re.findall(r"`((?:python|make) [^`]+)`", README)


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph = Image.fromarray(skimage.data.astronaut())
    photograph.save(tmp_path / "group.jpg")
    photograph.crop((170, 60, 280, 180)).save(tmp_path / "face.png")
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for snippet in SNIPPETS:
        exec(snippet, scope)
    assert scope["probabilities"].shape == (1, 7)
    # What the pipeline says is what the model says.
    best = {entry["label"]: entry["score"] for entry in scope["classify"]("face.png")}
    for number, name in scope["model"].config.id2label.items():
        if name in best:
            assert best[name] == pytest.approx(scope["probabilities"][0, number].item(), abs=1e-5)
    assert len(scope["faces"]) == 1
    assert scope["maps"].shape == (1, 7, 48, 48)
    assert torch.isfinite(scope["maps"]).all()


def test_its_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(COMMANDS) > 15
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), command
            continue
        if program != "python":
            assert program == "hf", command
            continue
        name = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
        source = (ROOT / name).read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, command


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
