"""The leak audit on made-up folders whose leaks are known, and its search against a slow oracle."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from audit_data import audit, format_report, groups_of, join, main, to_json
from emosynthnet_hf.data import PackedImages, load_splits
from emosynthnet_hf.duplicates import near_pairs, thumbnails, twins
from emosynthnet_hf.image_processing_emosynthnet import EmoSynthNetImageProcessor

FER2013 = Path("../shared/data/fer2013")


def picture(seed: int, size: int = 48) -> Image.Image:
    """Blobs, no two seeds alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    blurred = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))
    array = np.asarray(blurred, dtype=float)
    return Image.fromarray(np.uint8(30 + 150 * (array - array.min()) / np.ptp(array)))


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))[None, None]


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("L")


def save(folder: Path, name: str, image: Image.Image) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name)


def test_twins_are_equal_to_the_last_pixel() -> None:
    train = torch.cat([pixels(picture(seed)) for seed in range(3)])
    changed = train[1].clone()
    changed[0, 47, 47] ^= 1
    test = torch.stack([train[2], changed, train[0], pixels(picture(9))[0], train[2]])
    assert twins(train, test).tolist() == [True, False, True, False, True]
    assert twins(train, test[:0]).shape == (0,)


def test_twins_of_two_shapes_or_types_are_refused() -> None:
    train = torch.zeros(2, 1, 48, 48, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"\(1, 48, 48\).*\(3, 48, 48\)"):
        twins(train, torch.zeros(2, 3, 48, 48, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"uint8.*float32"):
        twins(train, torch.zeros(2, 1, 48, 48))


def test_thumbnails_are_means_of_areas() -> None:
    block = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    enlarged = block.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    torch.testing.assert_close(thumbnails(enlarged), block.float().mean(dim=1))


def test_one_photograph_in_other_forms_is_found_and_others_are_not() -> None:
    image = picture(0)
    forms = {
        "brighter, less contrast": image.point(lambda value: int(60 + 0.7 * value)),
        "re-encoded": jpeg(image),
        "larger": image.resize((120, 120), Image.Resampling.BICUBIC),
        "cut by one pixel": image.crop((0, 0, 47, 47)).resize((48, 48)),
        "watermarked": Image.composite(
            Image.new("L", (48, 48), 200),
            image,
            Image.linear_gradient("L").resize((48, 48)).point(lambda value: 80 * (value > 240)),
        ),
    }
    others = [picture(seed) for seed in range(1, 20)]
    stack = torch.cat([thumbnails(pixels(form)) for form in (image, *forms.values(), *others)])
    found = near_pairs(stack)
    mine = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert {second for first, second in mine if first == 0} == set(range(1, len(forms) + 1))
    assert max(map(max, mine)) <= len(forms)
    assert not found.mirrored.any()


def test_mirror_images_are_found_and_said_to_be() -> None:
    mirrored = jpeg(picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    stack = torch.cat([thumbnails(pixels(each)) for each in (picture(1), picture(0), mirrored)])
    found = near_pairs(stack)
    assert (found.first.tolist(), found.second.tolist()) == ([1], [2])
    assert found.mirrored.tolist() == [True]


def test_a_symmetric_pair_is_listed_once_as_not_mirrored() -> None:
    half = thumbnails(pixels(picture(0)))[..., :16]
    symmetric = torch.cat([half, half.flip(-1)], dim=-1)
    found = near_pairs(torch.cat([symmetric, 0.5 * symmetric + 20]))
    assert found.mirrored.tolist() == [False]
    assert found.detail == pytest.approx([1.0], abs=1e-5)


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def detail_of(image: NDArray[np.float64]) -> NDArray[np.float64]:
    detail = np.empty((32, 32))
    for row in range(32):
        for column in range(32):
            window = image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            detail[row, column] = image[row, column] - window.mean()
    return detail


@pytest.mark.parametrize("chunk", [3, 100])
def test_pairs_equal_a_slow_oracle(chunk: int) -> None:
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(32, 32))
    images = shared + generator.normal(size=(10, 32, 32)) * generator.uniform(0.2, 2, (10, 1, 1))
    images[5:] = images[5:, :, ::-1]
    expected = {}
    for first in range(10):
        for second in range(first + 1, 10):
            for mirrored in (True, False):  # the second overwrites the first
                other = images[second, :, ::-1] if mirrored else images[second]
                outlines = [
                    image.reshape(16, 2, 16, 2).mean(axis=(1, 3))
                    for image in (images[first], other)
                ]
                outlines = [outline - outline.mean() for outline in outlines]
                detail = correlation(detail_of(images[first]), detail_of(other))
                if correlation(*outlines) >= 0.4 and detail >= 0.3:
                    expected[first, second] = (mirrored, detail)
    found = near_pairs(torch.tensor(images).float(), outline=0.4, detail=0.3, chunk=chunk)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert 5 < len(pairs) < 45
    assert pairs == sorted(expected)
    assert found.mirrored.tolist() == [expected[pair][0] for pair in pairs]
    assert found.detail == pytest.approx([expected[pair][1] for pair in pairs], abs=1e-5)


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        near_pairs(torch.zeros(0, 32, 32))


def test_groups_and_joins() -> None:
    assert groups_of("abcab") == [[0, 3], [1, 4], [2]]
    roots = join(6, [(0, 3), (4, 5), (3, 5)])
    assert groups_of(roots) == [[0, 3, 4, 5], [1], [2]]


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Test row 0 is train row 0; row 1 a brighter train row 1 under another label; row 2 new.
    Validation row 0 is the mirror image of train row 2."""
    folder = tmp_path / "leaky"
    save(folder, "train/happy/S005_001_00000011.png", picture(0))
    save(folder, "train/happy/S010_001_00000012.png", picture(1))
    save(folder, "train/sad/S011_002_00000014.png", picture(2))
    mirrored = picture(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    save(folder, "validation/sad/S010_002_00000014.png", mirrored)
    save(folder, "test/happy/S005_001_00000011.png", picture(0))
    save(folder, "test/sad/a.png", picture(1).point(lambda value: value + 40))
    save(folder, "test/sad/b.png", picture(3))
    return folder


def test_the_report_on_known_leaks(leaky: Path) -> None:
    report = audit(load_splits(leaky))
    assert report["splits"]["train"] == {"images": 3, "classes": {"happy": 2, "sad": 1}}
    assert report["identical"]["groups"] == 1
    assert report["identical"]["images"] == 2
    assert report["identical"]["groups_with_conflicting_labels"] == 0
    across = report["identical"]["across"]
    assert across["test in train"] == {"images": 1, "with_another_label": 0, "rows": [0]}
    assert across["validation in train"]["images"] == across["test in validation"]["images"] == 0

    alike = report["alike"]
    assert (alike["groups"], alike["images"]) == (3, 6)
    assert (alike["near_identical_pairs"], alike["mirrored_pairs"]) == (2, 1)
    assert alike["across"]["test in train"] == {
        "images": 2,
        "with_another_label": 1,
        "rows": [0, 1],
    }
    assert alike["across"]["validation in train"]["rows"] == [0]
    assert alike["conflicting_labels"] == [["train 1 happy", "test 1 sad"]]
    assert report["subjects"] == {
        "subjects": 3,
        "images_without": 2,
        "in_several_splits": {"S005": ["test", "train"], "S010": ["train", "validation"]},
    }
    text = format_report(report)
    assert "test in train: 2 images, 1 of them under another label" in text
    assert "3 subjects, 2 in several splits" in text


def test_identical_pictures_under_two_labels(tmp_path: Path) -> None:
    for name in ("train/happy/a.png", "train/sad/b.png", "test/sad/c.png"):
        save(tmp_path, name, picture(0))
    save(tmp_path, "validation/sad/d.png", picture(1))
    report = audit(load_splits(tmp_path))
    assert report["identical"]["groups_with_conflicting_labels"] == 1
    assert report["identical"]["images"] == 3
    assert report["subjects"] is None


def test_the_size_of_a_picture_is_part_of_it(tmp_path: Path) -> None:
    flat = [Image.new("L", size, 100) for size in ((32, 48), (48, 32))]
    for place, image in enumerate(flat):
        save(tmp_path, f"train/happy/{place}.png", image)
        save(tmp_path, f"validation/happy/{place}.png", picture(place))
    report = audit(load_splits(tmp_path))
    assert report["identical"]["groups"] == report["alike"]["groups"] == 0


def test_the_command_writes_rows_and_no_picture(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "audits" / "leaky.json"
    assert main([str(leaky), "--output", str(output)]) == 0
    assert "identical or near-identical" in capsys.readouterr().out
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["data"] == "leaky"
    assert written["command"] == f"python training/audit_data.py {leaky} --output {output}"
    assert list(written["splits"]) == ["train", "validation", "test"]
    assert written["identical"] == audit(load_splits(leaky))["identical"]


def test_json_keeps_its_values_and_has_lists_on_one_line() -> None:
    report = {"rows": list(range(50)), "groups": [["train 1 happy", "test 1 sad"]], "none": []}
    text = to_json(report)
    assert json.loads(text) == report
    assert len(text.splitlines()) == 7


def test_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing")]) == 1
    assert "missing" in capsys.readouterr().err
    save(tmp_path, "train/happy/a.png", picture(0))
    save(tmp_path, "validation/happy/b.png", picture(1))
    (tmp_path / "train/happy/broken.png").write_bytes(b"not a picture")
    assert main([str(tmp_path)]) == 1
    assert "broken.png" in capsys.readouterr().err


@pytest.mark.data
def test_fer2013_has_288_test_pictures_in_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    splits = load_splits(FER2013, splits=("train", "test"))
    processor = EmoSynthNetImageProcessor()
    train, test = (PackedImages(splits[name], processor).pixels for name in ("train", "test"))
    committed = json.loads(Path("docs/audits/fer2013.json").read_text(encoding="utf-8"))
    across = committed["identical"]["across"]["test in train"]
    assert across["images"] == 288
    assert np.flatnonzero(twins(train, test)).tolist() == across["rows"]
