"""Publishing against a Hub on localhost, and loading from it as a stranger."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    pipeline,
)
from transformers.dynamic_module_utils import get_relative_import_files

import emosynthnet_hf
from checks import read_checks
from emosynthnet_hf import faithfulness
from emosynthnet_hf.data import EXPRESSIONS
from emosynthnet_hf.evaluation import checkpoint_folder
from emosynthnet_hf.metrics import METRICS, metric_path
from model_card import publish
from model_card.publish import main
from tests.hub_server import HubServer, redirect_clients
from tests.tiny_checkpoint import make_checkpoint, make_data, make_weights

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "emosynthnet_hf"
MODEL = ("models", "me/tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "fer2013")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", data)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in stranger.py: sums of floats depend on how they are shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub that this process's clients are sent to."""
    with HubServer() as server:
        redirect_clients(monkeypatch, server, tmp_path / "cache")
        yield server


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    """Of a process whose clients are sent to this Hub."""
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return kept | settings | {"HF_HUB_DISABLE_TELEMETRY": "1"}


def push_model(checkpoint: Path, *options: str) -> int:
    return main(["model", str(checkpoint), "me/tiny", *options])


# --------------------------------------------------------------------------------------------------
# What is pushed
# --------------------------------------------------------------------------------------------------


def test_a_dry_run_lists_and_sends_nothing(
    hub: HubServer, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push_model(checkpoint, "--dry-run") == 0
    assert hub.requests == []
    shown = capsys.readouterr().out
    size = (checkpoint / "model.safetensors").stat().st_size
    assert f"{size:>12,}  model.safetensors\n" in shown
    listed = [line.split()[-1] for line in shown.splitlines()[:-2]]
    assert push_model(checkpoint) == 0
    (_, pushed) = hub.repositories[MODEL].commits
    assert set(listed) == set(pushed.files) - {".gitattributes"}
    total = sum(len(file.content) for file in pushed.files.values())
    assert shown.splitlines()[-2].split()[:1] == [f"{total:,}"]


def test_a_model_is_pushed_whole_in_one_commit(hub: HubServer, checkpoint: Path) -> None:
    assert push_model(checkpoint) == 0
    initial, pushed = hub.repositories[MODEL].commits
    assert set(initial.files) == {".gitattributes"}
    assert sorted(set(pushed.files) - {".gitattributes"}) == [
        ".eval_results/fer2013.yaml",
        "README.md",
        "config.json",
        "configuration_emosynthnet.py",
        "image_processing_emosynthnet.py",
        "images/confusion-matrix.png",
        "images/reliability.png",
        "images/risk-coverage.png",
        "margin_emosynthnet.py",
        "model.safetensors",
        "modeling_emosynthnet.py",
        "preprocessor_config.json",
        "results/fer2013-test.json",
        "results/fer2013-validation.json",
        "training/environment.json",
        "training/recipe.yaml",
        "training/training_log.json",
    ]
    for name, file in pushed.files.items():
        if (checkpoint / name).is_file() and not name.endswith("config.json"):
            same = file.content == (checkpoint / name).read_bytes()
            assert same or name == "README.md", name
        elif name.endswith(".py"):
            assert file.content == (PACKAGE / name).read_bytes(), name
    for name, classes in (("config.json", 3), ("preprocessor_config.json", 1)):
        values = json.loads(pushed.files[name].content)
        assert len(values.pop("auto_map")) == classes
        assert values == json.loads((checkpoint / name).read_text(encoding="utf-8"))


def test_the_checks_of_the_explanations_travel_with_the_checkpoint(
    hub: HubServer, data: Path, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "tiny", data)
    few = ["--images", "4", "--randomization-images", "2", "--steps", "2"]
    assert faithfulness.main([str(folder), "--data", str(data), *few]) == 0
    assert push_model(folder) == 0
    (_, pushed) = hub.repositories[MODEL].commits
    assert {"faithfulness.json", "faithfulness.md", "faithfulness.png"} < set(pushed.files)
    fetched = read_checks(checkpoint_folder("me/tiny"))
    assert fetched is not None and fetched == read_checks(folder)
    assert fetched.pictures == "4 pictures of fer2013, validation"


def test_the_code_pushed_is_all_that_it_imports() -> None:
    needed = {"modeling_emosynthnet.py", "image_processing_emosynthnet.py"}
    for name in tuple(needed):
        needed |= {Path(path).name for path in get_relative_import_files(PACKAGE / name)}
    assert needed == set(publish.CODE)


def test_pushing_again_changes_nothing(hub: HubServer, checkpoint: Path) -> None:
    assert push_model(checkpoint) == 0
    uploads = [path for method, path in hub.requests if method == "PUT"]
    assert push_model(checkpoint) == 0
    assert len(hub.repositories[MODEL].commits) == 2
    assert [path for method, path in hub.requests if method == "PUT"] == uploads


def test_private_stays_private(
    hub: HubServer, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push_model(checkpoint, "--private") == 0
    assert hub.repositories[MODEL].private
    hub.repositories[MODEL].private = False
    before = len(hub.repositories[MODEL].commits)
    assert push_model(checkpoint, "--private") == 1
    assert "me/tiny is there already, and public" in capsys.readouterr().err
    assert len(hub.repositories[MODEL].commits) == before


def test_a_space_brings_the_package_that_it_imports(hub: HubServer) -> None:
    assert main(["space", str(ROOT / "space"), "me/page"]) == 0
    files = hub.repositories["spaces", "me/page"].commits[-1].files
    for path in (ROOT / "space").iterdir():
        assert not path.is_file() or files[path.name].content == path.read_bytes()
    for path in PACKAGE.rglob("*.py"):
        assert files[path.relative_to(ROOT).as_posix()].content == path.read_bytes()
    assert not any("__pycache__" in name for name in files)


# --------------------------------------------------------------------------------------------------
# What goes wrong
# --------------------------------------------------------------------------------------------------

STEPS = {
    "listing": ("POST", "/preupload/"),
    "upload": ("PUT", "/lfs/"),
    "verification": ("POST", "/verify"),
    "commit": ("POST", "/commit/"),
}


@pytest.mark.parametrize("what", [{"drop": True}, {"status": 500}], ids=["dropped", "500"])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_push_leaves_what_was_there(
    hub: HubServer,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    step: str,
    what: dict[str, Any],
) -> None:
    before = hub.add("models", "me/tiny", {"README.md": b"---\na: b\n---\nolder\n"})
    with hub.failing(*STEPS[step], **what):
        assert push_model(checkpoint) == 1
    assert hub.repositories[MODEL].commits == [before]
    if step == "commit":
        weights = (checkpoint / "model.safetensors").read_bytes()
        assert hub.lfs[hashlib.sha256(weights).hexdigest()] == weights
    message = capsys.readouterr().err
    assert "run the command again" in message
    assert "500" in message or "broke" in message
    assert push_model(checkpoint) == 0
    assert "model.safetensors" in hub.repositories[MODEL].commits[-1].files


@pytest.mark.parametrize("what", [{"drop": True}, {"status": 500}, {"status": 429}], ids=str)
def test_one_failed_upload_is_tried_again(
    hub: HubServer, checkpoint: Path, what: dict[str, Any]
) -> None:
    hub.fail("PUT", "/lfs/", **what)
    assert push_model(checkpoint) == 0
    assert "model.safetensors" in hub.repositories[MODEL].commits[-1].files


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/create", 401, "401, the token is not valid: make one with write access on https://"),
        ("/create", 403, "403, the token may not write to me/tiny: give it write access on"),
        ("/preupload/", 404, "404, me/tiny is not there, or not for this token: check OWNER/NAME"),
        ("/commit/", 429, "429, too many requests: wait some minutes."),
        ("/commit/", 413, "413, the Hub refused (The test asks for this."),
    ],
)
def test_refusals_say_what_to_do(
    hub: HubServer,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    path: str,
    status: int,
    message: str,
) -> None:
    with hub.failing("POST", path, status=status, echo=True):
        assert push_model(checkpoint) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert hub.token not in shown.err + shown.out
    assert "Bearer <token>" in shown.err  # the Hub's words, which repeated it
    if MODEL in hub.repositories:  # empty, but for what the Hub makes itself
        assert [commit.summary for commit in hub.repositories[MODEL].commits] == ["initial commit"]


def test_a_token_stays_out_of_output_and_logs(
    hub: HubServer, checkpoint: Path, tmp_path: Path
) -> None:
    loud = {"HF_TOKEN": hub.token, "HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
    command = [sys.executable, "model_card/publish.py", "model", str(checkpoint), "me/tiny"]
    shown = []
    for status in (0, 1):
        if status:
            hub.fail("POST", "/preupload/", status=403, echo=True)
        done = subprocess.run(
            command,
            env=environment(hub, tmp_path) | loud,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        shown.append(done.stdout + done.stderr)
    assert "api/models/me/tiny/commit/main" in shown[0]  # requests were logged
    for text in shown:
        assert hub.token not in text


def test_no_token_is_said(
    hub: HubServer,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(publish, "get_token", lambda: None)
    assert push_model(checkpoint) == 1
    assert "set HF_TOKEN or run `hf auth login`" in capsys.readouterr().err
    assert hub.requests == []


def test_a_file_with_a_token_is_not_pushed(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_weights(tmp_path / "tiny")
    (folder / "README.md").write_text("---\na: b\n---\n", encoding="utf-8")
    (folder / "training").mkdir()
    (folder / "training" / "train.log").write_text(f"token={hub.token}\n", encoding="utf-8")
    assert push_model(folder) == 1
    message = capsys.readouterr().err
    assert "training/train.log holds what looks like a Hub token" in message
    assert hub.token not in message
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "nowhere", "me/x"], "FOLDER must be a folder, got nowhere"),
        (["model", "{empty}", "me/x"], "missing: ['config.json', 'preprocessor_config.json'"),
        (["space", "{empty}", "me/x"], "must hold README.md with the front matter of a Space"),
        (["metric", "{empty}", "me/x"], "must hold empty.py"),
        (["metric", metric_path("votes"), "me/x"], "got 'me/x': use me/votes"),
        (["metric", metric_path("votes"), "votes"], "must be OWNER/NAME, got 'votes'"),
    ],
)
def test_folders_that_cannot_be_pushed_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    assert main([*arguments, "--dry-run"]) == 1
    assert message in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Loading
# --------------------------------------------------------------------------------------------------


def face(folder: Path) -> Path:
    pixels = np.random.default_rng(7).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "face.png")
    return folder / "face.png"


def package_numbers(folder: Path, picture: Path) -> dict[str, Any]:
    """What the package makes of a picture."""
    processor = emosynthnet_hf.EmoSynthNetImageProcessor.from_pretrained(folder)
    model = emosynthnet_hf.EmoSynthNetForImageClassification.from_pretrained(folder)
    base = emosynthnet_hf.EmoSynthNetModel.from_pretrained(folder)
    with torch.inference_mode():
        pixel_values = processor(Image.open(picture), return_tensors="pt")["pixel_values"]
        numbers = {
            "pixel_values": pixel_values,
            "logits": model(pixel_values=pixel_values).logits,
            "embedding": base(pixel_values=pixel_values).pooler_output,
        }
    numbers["scores"] = pipeline("image-classification", str(folder))(str(picture))
    return numbers


def assert_nothing_half_written(cache: Path) -> None:
    """Every file in a cache of the Hub's client is what its name, a hash, says."""
    blobs = [path for path in cache.rglob("blobs/*") if path.is_file()]
    assert blobs
    for path in blobs:
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        assert path.name in (git, hashlib.sha256(content).hexdigest()), path
    assert not list(cache.rglob("*.incomplete"))
    assert all(path.exists() for path in cache.rglob("snapshots/*/*"))


def test_a_stranger_gets_the_same_numbers(hub: HubServer, checkpoint: Path, tmp_path: Path) -> None:
    other = make_weights(tmp_path / "other", seed=1)
    (other / "README.md").write_text("---\na: b\n---\n", encoding="utf-8")
    assert push_model(other) == 0
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_tag("me/tiny", tag="v1")
    assert push_model(checkpoint) == 0
    files = {name: file.content for name, file in hub.repositories[MODEL].commits[-1].files.items()}
    faults: dict[str, dict[str, Any]] = {
        "me/dropped": {"drop": True},
        "me/busy": {"status": 429},
        "me/down": {"status": 500},
        "me/short": {"damaged": True, "shorter": True},
    }
    for name, what in faults.items():
        hub.add("models", name, files)
        hub.fail("GET", rf"{name}/resolve/.*safetensors", **what)
    hub.add("models", "me/gated", files, gated=True)
    picture = face(tmp_path)
    output = tmp_path / "numbers.npz"
    (tmp_path / "elsewhere").mkdir()

    script = str(ROOT / "tests" / "stranger.py")
    broken = (*faults, "me/gated", "me/missing")
    done = subprocess.run(
        [sys.executable, "-I", script, "me/tiny", "v1", str(picture), str(output), *broken],
        env=environment(hub, tmp_path / "home"),
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])

    numbers, wanted = np.load(output), package_numbers(checkpoint, picture)
    for name in ("pixel_values", "logits", "embedding"):
        np.testing.assert_array_equal(numbers[name], wanted[name].numpy(), err_msg=name)
    pinned = package_numbers(other, picture)["logits"].numpy()
    np.testing.assert_array_equal(numbers["pinned"], pinned)
    assert not np.array_equal(numbers["logits"], numbers["pinned"])
    assert told["scores"] == wanted["scores"]
    assert told["module"].startswith("transformers_modules.me.tiny.")

    assert told["untrusted"].startswith("ValueError") and "trust_remote_code" in told["untrusted"]
    assert "v9" in told["wrong revision"] and told["wrong revision"] != "loaded"
    ends = told["broken"]
    assert (ends["me/dropped"], ends["me/busy"]) == ("loaded", "loaded")
    assert "500" in ends["me/down"] and "me/down" in ends["me/down"]
    assert "should be of size" in ends["me/short"]
    assert "gated" in ends["me/gated"] and "me/gated" in ends["me/gated"]
    assert "me/missing" in ends["me/missing"]
    assert_nothing_half_written(tmp_path / "home" / "hub")


def test_with_the_package_no_remote_code_runs(
    hub: HubServer, checkpoint: Path, tmp_path: Path
) -> None:
    assert push_model(checkpoint) == 0
    picture = face(tmp_path)
    loaded = [
        auto.from_pretrained("me/tiny", trust_remote_code=trust)
        for auto in (AutoModelForImageClassification, AutoModel, AutoImageProcessor)
        for trust in (True, None)
    ]
    classify = pipeline("image-classification", "me/tiny", trust_remote_code=True)
    loaded += [classify.model, classify.image_processor]
    for each in loaded:
        assert type(each).__module__.startswith("emosynthnet_hf."), type(each)
    assert not [path for _, path in hub.requests if path.endswith(".py") and "resolve" in path]
    assert classify(str(picture)) == package_numbers(checkpoint, picture)["scores"]


# --------------------------------------------------------------------------------------------------
# Metrics
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def metrics_from_the_hub(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> HubServer:
    config = evaluate.config
    monkeypatch.setattr(config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(
        config, "HUB_EVALUATE_URL", f"{hub.url}/spaces/{{path}}/resolve/{{revision}}/{{name}}"
    )
    monkeypatch.setattr(config, "HF_EVALUATE_OFFLINE", False)
    monkeypatch.setattr(config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(config, "DOWNLOADED_EVALUATE_PATH", str(tmp_path / "downloads"))
    monkeypatch.setattr(config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    return hub


def test_metrics_load_from_their_spaces(metrics_from_the_hub: HubServer) -> None:
    hub = metrics_from_the_hub
    for name in METRICS:
        assert main(["metric", metric_path(name), f"me/{name}"]) == 0
    labels = {"predictions": [0, 2, 1, 1], "references": [0, 1, 1, 1]}
    probabilities = {"predictions": [[0.9, 0.1], [0.2, 0.8]], "references": [0, 0]}
    votes = {"predictions": [[0.9, 0.1], [0.2, 0.8]], "references": [[9, 1], [4, 6]]}
    soft = {"expected_calibration_error": probabilities, "risk_coverage_area": probabilities}
    for name in METRICS:
        inputs = ({"votes": votes} | soft).get(name, labels)
        result = evaluate.load(f"me/{name}").compute(**inputs)
        assert result == evaluate.load(metric_path(name)).compute(**inputs), name
        asked = f"/spaces/me/{name}/resolve/main/{name}.py"
        assert ("GET", asked) in hub.requests
    assert evaluate.load("me/accuracy").compute(**labels) == {"accuracy": 0.75}


def test_a_metric_that_is_not_there_is_named(metrics_from_the_hub: HubServer) -> None:
    with pytest.raises(FileNotFoundError, match="me/nothing"):
        evaluate.load("me/nothing")


def test_the_evaluator_scores_a_checkpoint_with_them(
    checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    images = emosynthnet_hf.data.load_splits(data, splits=("test",))["test"]
    evaluator = evaluate.evaluator("image-classification")
    for name in ("accuracy", "balanced_accuracy"):
        result = evaluator.compute(
            model_or_pipeline=str(checkpoint),
            data=images,
            metric=evaluate.load(metric_path(name)),
            label_mapping={expression: number for number, expression in enumerate(EXPRESSIONS)},
        )
        path = checkpoint / "results" / "fer2013-test.json"
        scores = json.loads(path.read_text(encoding="utf-8"))["views"]["single_crop"]
        assert result[name] == pytest.approx(scores[name], abs=1e-6)
