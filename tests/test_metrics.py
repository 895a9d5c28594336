"""The `evaluate` modules, loaded by folder: against scikit-learn, the scorer and by hand."""

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import evaluate
import gradio_client
import numpy as np
import pytest
import sklearn.metrics
from huggingface_hub import RepoCard

from emosynthnet_hf import scores
from emosynthnet_hf.metrics import METRICS, metric_path

CLASSES = 4
NAMES = ["angry", "happy", "sad", "neutral"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Neither the network nor the user's cache."""
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", cache)


@pytest.fixture(scope="module")
def samples() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES - 1, 200)  # the last class has no sample
    logits = generator.normal(size=(200, CLASSES)) * 2
    logits[np.arange(200), labels] += 1
    log_probabilities = scores.log_softmax(logits)
    return {
        "labels": labels,
        "predictions": logits.argmax(axis=1),
        "log_probabilities": log_probabilities,
        "probabilities": np.exp(log_probabilities),
        "votes": generator.integers(0, 4, (200, CLASSES)),
        "scores": scores.score(log_probabilities, labels, NAMES),
    }


def compute(name: str, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
    metric = evaluate.load(metric_path(name))
    result: dict[str, Any] = metric.compute(
        predictions=predictions, references=references, **options
    )
    return result


def test_class_metrics_equal_scikit_learn(samples: dict[str, Any]) -> None:
    labels, predictions = samples["labels"], samples["predictions"]
    every = range(CLASSES)
    macro = sklearn.metrics.precision_recall_fscore_support(
        labels, predictions, labels=every, average="macro", zero_division=0
    )
    recalls = sklearn.metrics.recall_score(
        labels, predictions, labels=every, average=None, zero_division=0
    )
    confusion = sklearn.metrics.confusion_matrix(labels, predictions, labels=every)

    assert compute("accuracy", predictions, labels) == {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions)
    }
    assert compute("macro_precision_recall_f1", predictions, labels, num_labels=4) == pytest.approx(
        dict(zip(("macro_precision", "macro_recall", "macro_f1"), macro[:3], strict=True))
    )
    assert compute("per_class_recall", predictions, labels, label_names=NAMES) == pytest.approx(
        {f"recall_{name}": recall for name, recall in zip(NAMES, recalls, strict=True)}
    )
    assert compute("confusion_matrix", predictions, labels, num_labels=4) == {
        "confusion_matrix": confusion.tolist()
    }


def test_balanced_accuracy_equals_scikit_learn(samples: dict[str, Any]) -> None:
    labels, predictions = samples["labels"], samples["predictions"] % 3
    assert compute("balanced_accuracy", predictions, labels) == pytest.approx(
        {"balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predictions)}
    )


def test_modules_equal_the_scorer(samples: dict[str, Any]) -> None:
    labels, predictions = samples["labels"], samples["predictions"]
    probabilities, result = samples["probabilities"], samples["scores"]
    found: dict[str, Any] = {}
    for name in ("accuracy", "balanced_accuracy", "confusion_matrix"):
        found |= compute(name, predictions, labels)
    found |= compute("macro_precision_recall_f1", predictions, labels)
    for name in ("expected_calibration_error", "risk_coverage_area"):
        found |= compute(name, probabilities, labels)
    assert found.pop("confusion_matrix") == [list(row) for row in result.confusion_matrix]
    assert len(found) == 7
    for name, value in found.items():
        assert value == pytest.approx(getattr(result, name), abs=1e-6), name

    recalls = compute("per_class_recall", predictions, labels, label_names=NAMES)
    for name, entry in result.per_class.items():
        assert recalls[f"recall_{name}"] == pytest.approx(entry.recall, abs=1e-6)

    assert compute("votes", probabilities, samples["votes"]) == pytest.approx(
        {
            "vote_accuracy": scores.vote_accuracy(predictions, samples["votes"]),
            "vote_divergence": scores.vote_divergence(
                samples["log_probabilities"], samples["votes"]
            ),
        }
    )


def test_calibration_error_by_hand() -> None:
    # Bin (0.5, 1]: mean confidence 0.8, two of three right.
    result = compute(
        "expected_calibration_error", [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], [0, 1, 1], num_bins=2
    )
    assert result["expected_calibration_error"] == pytest.approx(0.8 - 2 / 3)


def test_calibration_bins_are_closed_on_the_right() -> None:
    # 0.6 is the upper edge of the third of five bins: alone there, and right, its gap is 0.4.
    result = compute("expected_calibration_error", [[0.6, 0.4], [0.7, 0.3]], [0, 1], num_bins=5)
    assert result["expected_calibration_error"] == pytest.approx((0.4 + 0.7) / 2)


def test_risk_coverage_by_hand() -> None:
    # By falling confidence right, wrong, right: risks 0, 1/2, 1/3.
    result = compute("risk_coverage_area", [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], [0, 1, 1])
    assert result["risk_coverage_area"] == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


def test_votes_by_hand() -> None:
    # Even votes are tied and their divergence from 1/2 is 0; the last sample has no vote.
    result = compute("votes", [[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]], [[5, 5], [0, 10], [0, 0]])
    assert result == pytest.approx({"vote_accuracy": 1.0, "vote_divergence": np.log(4 / 3) / 2})


def test_metrics_combine(samples: dict[str, Any]) -> None:
    both = evaluate.combine([metric_path("accuracy"), metric_path("balanced_accuracy")])
    result = both.compute(predictions=samples["predictions"], references=samples["labels"])
    assert set(result) == {"accuracy", "balanced_accuracy"}


@pytest.mark.parametrize(
    ("name", "predictions", "references", "options", "message"),
    [
        ("accuracy", [], [], {}, "at least one sample"),
        ("balanced_accuracy", [], [], {}, "at least one sample"),
        ("confusion_matrix", [0, 3], [0, 0], {"num_labels": 3}, "from 0 to 2, got .* 0 to 3"),
        ("macro_precision_recall_f1", [0, -1], [0, 0], {}, "got values from -1 to 0"),
        ("per_class_recall", [0], [2], {"label_names": ["a", "b"]}, "from 0 to 1, got .* 0 to 2"),
        ("expected_calibration_error", [[0.4, 0.4]], [0], {}, "with a sum of 1"),
        ("expected_calibration_error", [[0.4, 0.6]], [0], {"num_bins": 0}, "at least 1, got 0"),
        ("risk_coverage_area", [[0.4, 0.6]], [2], {}, "from 0 to 1, got values from 2 to 2"),
        ("votes", [[0.4, 0.6]], [[1, 2, 3]], {}, r"\(1, 2\), got shape \(1, 3\)"),
        ("votes", [[0.4, 0.6]], [[1, 1]], {}, "ties only"),
    ],
)
def test_errors_say_what_was_got(
    name: str, predictions: Any, references: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compute(name, predictions, references, **options)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of accuracy, .*votes, got 'f2'"):
        metric_path("f2")


@pytest.mark.parametrize("name", METRICS)
def test_a_folder_is_a_space(name: str) -> None:
    folder = Path(metric_path(name))
    card = RepoCard.load(folder / "README.md")
    assert card.data.sdk == "gradio" and (folder / card.data.to_dict()["app_file"]).is_file()
    assert (folder / f"{name}.py").is_file()

    # What the module and the app import is what the Space installs: gradio comes with its sdk.
    imported = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    required = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    installed = {re.split(r"[<>=]", line)[0] for line in required} | {"gradio"}
    assert imported - {"json", "pathlib", "typing"} == installed


@pytest.mark.parametrize("name", METRICS)
def test_the_readme_shows_what_the_module_returns(name: str) -> None:
    text = (Path(metric_path(name)) / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)# (.*?)```", text, flags=re.DOTALL)
    code = example[0].replace(f"path/to/{name}", metric_path(name))
    *statements, call = ast.parse(code).body
    if not isinstance(call, ast.Expr):
        raise TypeError("the last statement of the example must be the call of compute")
    scope: dict[str, Any] = {}
    exec(compile(ast.Module(statements, []), "README.md", "exec"), scope)
    result = eval(compile(ast.Expression(call.value), "README.md", "eval"), scope)
    assert result == json.loads(example[1])


@pytest.mark.parametrize("name", METRICS)
def test_the_app_answers(name: str) -> None:
    app = _load_app(name)
    app.demo.launch(prevent_thread_lock=True, ssr_mode=False, quiet=True)
    try:
        client = gradio_client.Client(app.demo.local_url, verbose=False)
        example = app.EXAMPLE
        expected = compute(name, **example)
        assert client.predict(json.dumps(example), api_name="/compute") == expected
        with pytest.raises(gradio_client.exceptions.AppError, match="Expecting value"):
            client.predict("not JSON", api_name="/compute")
    finally:
        app.demo.close()


def _load_app(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"app_{name}", Path(metric_path(name)) / "app.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no app.py for {name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
