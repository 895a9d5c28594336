"""Verification: a true card passes, any number changed in any file does not."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from emosynthnet_hf.evaluation import EvaluationResult
from emosynthnet_hf.scores import TwinScores, VoteCeiling, VoteScores
from model_card import build, publish
from model_card.verify import NOT_COMPARED, NUMBER, compare_results, compare_text, main
from tests.hub_server import HubServer, redirect_clients
from tests.tiny_checkpoint import make_checkpoint, make_data

ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "checkpoints" / "emosynthnet-small-fer2013"
EVALUATION_FILE = ".eval_results/fer2013.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "fer2013")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", data)


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


def run(checkpoint: Path | str, data: Path, *options: str) -> int:
    return main([str(checkpoint), "--data", str(data), *options])


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def other_digit(number: str) -> str:
    """The number with its last digit changed by one."""
    return number[:-1] + ("1" if number[-1] == "0" else str(int(number[-1]) - 1))


def test_a_true_card_passes(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, data) == 0
    shown = capsys.readouterr().out
    assert "every number was found again" in shown
    for split in ("test", "validation"):
        assert f"fer2013-{split}.json: 21 pictures evaluated again" in shown


@pytest.mark.parametrize("path", ["README.md", EVALUATION_FILE])
def test_one_digit_changed_in_a_card_fails(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    result = EvaluationResult.load(checkpoint / "results" / "fer2013-test.json")
    value = str(result.views["single_crop"].accuracy)
    change(checkpoint / path, f"value: {value}", f"value: {other_digit(value)}")
    assert run(checkpoint, data, "--split", "validation") == 1
    shown = capsys.readouterr().out
    assert f"| {other_digit(value)} | {value} | 0 |" in shown
    assert path in shown and "1 differences" in shown


@pytest.mark.parametrize("path", ["README.md", EVALUATION_FILE])
def test_any_digit_of_our_card_is_noticed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (OURS / path).read_text(encoding="utf-8")
    assert compare_text(path, text, text) == []
    found = list(NUMBER.finditer(text))
    assert len(found) > (120 if path == "README.md" else 4)
    for number in found:
        forged = text[: number.start()] + other_digit(number[0]) + text[number.end() :]
        (difference,) = compare_text(path, forged, text)
        assert (difference.said, difference.found) == (other_digit(number[0]), number[0])


def test_every_score_in_our_card_is_a_number_to_it() -> None:
    text = (OURS / "README.md").read_text(encoding="utf-8")
    shares = re.findall(r"[\d.]+(?= %)", text)
    assert len(shares) > 35
    lines = [line for line in text.splitlines() if "%" in line or "value:" in line]
    assert set(shares) <= {number for line in lines for number in NUMBER.findall(line)}


def test_a_line_more_or_less_is_noticed() -> None:
    said = "accuracy: 67.90 %\nthe best of 12\n"
    expected = "accuracy: 67.90 %\nloss: 0.9097\n"
    more, less = compare_text("README.md", said, expected)
    assert (more.where, more.found) == ("README.md, line 2: the best of 12", "no such line")
    assert (less.where, less.said) == ("README.md: loss: 0.9097", "no such line")


def test_a_forged_result_fails_with_a_card_that_agrees(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint / "results" / "fer2013-test.json"
    result = EvaluationResult.load(path)
    view = result.views["single_crop"]
    forged = replace(view, accuracy=0.9379)
    replace(result, views=result.views | {"single_crop": forged}).save(path)
    assert build.main([str(checkpoint)]) == 0
    assert run(checkpoint, data, "--split", "test") == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| fer2013")]
    assert rows == [
        f"| fer2013-test.json: views.single_crop.accuracy | 0.9379 | {view.accuracy} | 0.047619 |"
    ]


def test_other_weights_fail(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert run(checkpoint, data, "--split", "validation") == 1
    shown = capsys.readouterr().out
    for split in ("test", "validation"):
        assert f"| fer2013-{split}.json: model_sha256 |" in shown


def test_weights_of_other_values_change_what_is_found(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results that name the hash of other weights are still not theirs."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.weight"] = -tensors["classifier.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for results in (checkpoint / "results").glob("*.json"):
        replace(EvaluationResult.load(results), model_sha256=digest).save(results)
    assert run(checkpoint, data, "--split", "test") == 1
    shown = capsys.readouterr().out
    assert "views.single_crop.loss" in shown and "model_sha256" not in shown


def test_other_data_is_named_and_not_the_model(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of the data set's name that lacks one test picture, and has the same validation."""
    other = Path(shutil.copytree(data, tmp_path / "copies" / "fer2013"))
    (other / "test" / "happy" / "0.png").unlink()
    assert run(checkpoint, other) == 1
    shown = capsys.readouterr().out
    result = EvaluationResult.load(checkpoint / "results" / "fer2013-test.json")
    assert f"fer2013-test.json was made on other data than {other}: on 21 pictures" in shown
    assert f"fingerprint {result.data_sha256[:12]}, and there are 20 pictures" in shown
    assert "says nothing about the model" in shown
    assert "| where |" not in shown and "every number was found" not in shown
    assert "fer2013-validation.json: 21 pictures evaluated again" in shown

    # What can be checked without the data is.
    value = str(result.views["single_crop"].accuracy)
    change(checkpoint / "README.md", f"value: {value}", f"value: {other_digit(value)}")
    assert run(checkpoint, other, "--split", "test") == 1
    shown = capsys.readouterr().out
    assert f"| {other_digit(value)} | {value} | 0 |" in shown and "1 differences" in shown
    assert "fer2013-test.json was made on other data" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{checkpoint}", "--data", "{data}", "--split", "train"], "no results on fer2013 train"),
        (["{checkpoint}", "--data", "{data}/.."], "to evaluate again, got fer2013 test, fer2013"),
        (["{data}", "--data", "{data}"], "model.safetensors"),
        (["not an id", "--data", "{data}"], "a folder or a readable Hub id, got 'not an id'"),
    ],
)
def test_what_cannot_be_verified_is_said(
    made: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main([each.format(checkpoint=made, data=data) for each in arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_command_of_another_program_is_not_run(
    checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint / "results" / "fer2013-test.json"
    command = "python -m emosynthnet_hf.evaluation x --data y --delete everything"
    replace(EvaluationResult.load(path), command=command).save(path)
    assert run(checkpoint, data, "--split", "test") == 1
    assert f"not a command of the evaluation: {command!r}" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Tolerance
# --------------------------------------------------------------------------------------------------


def full_result() -> EvaluationResult:
    """Ours, with every optional part."""
    result = EvaluationResult.load(OURS / "results" / "fer2013-test.json")
    return replace(
        result,
        twins=dict.fromkeys(result.views, TwinScores(500, 0.6, 0.5, 0.75)),
        votes=dict.fromkeys(result.views, VoteScores(0.625, 0.5)),
        vote_ceiling=VoteCeiling(3500, 3400, 0.7, VoteScores(0.8, 0.1)),
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each number in nested dictionaries and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, each in items:
            yield from places(each, (*path, name))
    elif isinstance(value, int | float):
        yield path


def shifted(result: EvaluationResult, path: tuple[Any, ...], by: float) -> EvaluationResult:
    values = json.loads(json.dumps(result.to_dict()))
    inside = values
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] += by
    return EvaluationResult.from_dict(values)


def test_every_number_of_a_result_is_compared() -> None:
    result = full_result()
    values = json.loads(json.dumps(result.to_dict()))
    compared = [path for path in places(values) if path[0] not in NOT_COMPARED]
    assert len(compared) > 300
    for path in compared:
        (difference,) = compare_results(result, shifted(result, path, 5))
        assert str(path[-1]) in difference.where


@pytest.mark.parametrize(
    ("path", "passes", "fails"),
    [
        # 3,573 pictures: 3.573 of them may be decided otherwise.
        ("views.single_crop.accuracy", 3.5 / 3573, 3.6 / 3573),
        ("views.single_crop.expected_calibration_error", 3.5 / 3573, 3.6 / 3573),
        # Disgust, the smallest of seven classes, has 55.
        ("views.flip_averaging.macro_f1", 3.5 / 55 / 7, 3.6 / 55 / 7),
        ("views.single_crop.per_class.happy.recall", 3.5 / 875, 3.6 / 875),
        ("views.single_crop.confusion_matrix.0.0", 3, 4),
        ("views.single_crop.risk_coverage.0.1", 3.5 / 3573 * 20, 3.6 / 3573 * 20),
        ("views.single_crop.loss", 0.0009, 0.0011),
        ("twins.single_crop.accuracy_of_twins", 3.5 / 500, 3.6 / 500),
        ("votes.single_crop.divergence", 0.0009, 0.0011),
        ("temperature", 0, 0.0001),
        ("num_samples", 0, 1),
    ],
)
def test_the_tolerance_is_as_stated(path: str, passes: float, fails: float) -> None:
    result = full_result()
    names = tuple(int(name) if name.isdigit() else name for name in path.split("."))
    assert compare_results(result, shifted(result, names, passes)) == []
    (difference,) = compare_results(result, shifted(result, names, fails))
    assert difference.where.startswith(path.split(".")[0])


def test_what_a_result_does_not_say_is_not_compared() -> None:
    full = full_result()
    silent = replace(full, twins=None, votes=None, vote_ceiling=None)
    assert compare_results(silent, full) == []
    missing = compare_results(full, silent)
    assert [difference.where for difference in missing] == ["twins", "votes", "vote_ceiling"]


def test_a_bin_that_loses_its_last_picture_is_no_difference() -> None:
    result = full_result()
    view = result.views["single_crop"]

    def with_first_bin(**values: Any) -> EvaluationResult:
        bins = (replace(view.reliability_bins[0], **values), *view.reliability_bins[1:])
        views = result.views | {"single_crop": replace(view, reliability_bins=bins)}
        return replace(result, views=views)

    empty = with_first_bin(count=0, confidence=None, accuracy=None)
    for count, wrong in ((3, []), (4, ["count", "confidence", "accuracy"])):
        said = with_first_bin(count=count, confidence=0.06, accuracy=0.5)
        found = [each.where.rsplit(".")[-1] for each in compare_results(said, empty)]
        assert found == wrong


# --------------------------------------------------------------------------------------------------
# On the Hub
# --------------------------------------------------------------------------------------------------


def test_a_published_checkpoint_verifies_and_a_damaged_download_does_not(
    made: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with HubServer() as hub:
        redirect_clients(monkeypatch, hub, tmp_path / "cache")
        assert publish.main(["model", str(made), "me/tiny"]) == 0
        assert run("me/tiny", data, "--split", "validation") == 0
        assert "every number was found again" in capsys.readouterr().out

        # Of the same size, so that the Hub's client takes it.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "other"))
        hub.fail("GET", "safetensors", damaged=True)
        assert run("me/tiny", data, "--split", "validation") == 1
        assert "| fer2013-validation.json: model_sha256 |" in capsys.readouterr().out

        assert run("me/missing", data) == 1
        assert "me/missing" in capsys.readouterr().err
