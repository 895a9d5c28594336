"""The lab log: what each training changed, and what that gave on validation.

    python training/lab_log.py RUN --group "quarter width, 4 epochs" --finding "what it says"

RUN is a folder that `training/train.py` wrote, finished or stopped. Its recipe, budget and
validation accuracy by epoch go into docs/lab-log.json, from which docs/lab-log.md is written. The
first run of a group, or the one with --baseline, is what the others of that group are compared
with. Test splits are never read.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipe import Recipe, load_recipe, recipe_from
from train import epoch_rows, write_json

LOG = Path(__file__).resolve().parent.parent / "docs" / "lab-log.json"
HEAD = """# Lab log

What each training changed and what that gave, on validation only (FER-2013: PublicTest, 3,579
pictures, single crop, before a temperature is fitted). Each row is one seed: differences below
about one point say nothing, as one standard error of an accuracy on so many pictures is 0.8 points.
The first run of a group is what the others are compared with. Written by `training/lab_log.py` from
the runs' own logs.
"""


def read_run(folder: Path) -> dict[str, Any]:
    """Recipe, budget and validation accuracy by epoch of a run.

    Raises:
        FileNotFoundError: no such folder, or nothing was trained there.
    """
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    recipe = asdict(load_recipe(folder / "recipe.yaml"))
    finished = folder / "training_log.json"
    if finished.is_file():
        rows = json.loads(finished.read_text(encoding="utf-8"))
    else:
        states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=_step)
        if not states:
            raise FileNotFoundError(f"{folder} must hold training_log.json or a checkpoint")
        state = json.loads(states[-1].read_text(encoding="utf-8"))
        rows = epoch_rows(state["log_history"])
    return {
        "recipe": recipe,
        "commit": environment["commit"],
        "cores": environment["cores"],
        "minutes": round(rows[-1]["run_seconds"] / 60, 1),
        "validation_accuracy": [row["validation"]["accuracy"] for row in rows],
        "validation_loss": [row["validation"]["loss"] for row in rows],
        "train_loss": [row["train_loss"] for row in rows],
    }


def differences(recipe: Recipe, baseline: Recipe) -> dict[str, Any]:
    """Settings `section.name` of a recipe that a baseline lacks or has otherwise."""
    ours, theirs = _flat(asdict(recipe)), _flat(asdict(baseline))
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return {name: ours.get(name) for name in names}


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """The log as a table for each group, in the order of the runs."""
    parts = [HEAD]
    for group in dict.fromkeys(run["group"] for run in runs):
        members = [run for run in runs if run["group"] == group]
        baseline = members[0]
        parts.append(
            f"\n## {group}\n\n"
            "| run | what differs | epochs | minutes | cores | best validation accuracy | gain |\n"
            "| --- | --- | --- | --- | --- | --- | --- |"
        )
        for run in members:
            changed = differences(_recipe(run), _recipe(baseline))
            what = ", ".join(f"{name} {_text(value)}" for name, value in changed.items())
            same = "(the baseline)" if run is baseline else "nothing"
            best = max(run["validation_accuracy"])
            gain = best - max(baseline["validation_accuracy"])
            planned = run["recipe"]["training"]["num_train_epochs"]
            done = len(run["validation_accuracy"])
            epochs = f"{done}" if done == planned else f"{done} of {planned}"
            parts.append(
                f"| {run['name']} | {what or same} | {epochs} | {run['minutes']:.0f} "
                f"| {run['cores']} | {100 * best:.2f} % "
                f"| {'' if run is baseline else f'{100 * gain:+.2f}'} |"
            )
        parts += [f"\n{run['name']}: {run['finding']}" for run in members if run["finding"]]
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python training/lab_log.py --help`."""
    parser = argparse.ArgumentParser(prog="python training/lab_log.py", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run; replaces one of the same name")
    parser.add_argument("--group", required=True, help="runs of one budget, compared to the first")
    parser.add_argument(
        "--baseline", action="store_true", help="the others of its group are compared to this one"
    )
    parser.add_argument("--name", help="of the run; default: the folder's")
    parser.add_argument("--finding", default="", help="what the run says, in a sentence")
    options = parser.parse_args(arguments)
    try:
        run = {"name": options.name or options.run.resolve().name, **read_run(options.run)}
        run |= {"group": options.group, "finding": options.finding}
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    runs = json.loads(LOG.read_text(encoding="utf-8")) if LOG.is_file() else []
    names = [known["name"] for known in runs]
    place = names.index(run["name"]) if run["name"] in names else len(runs)
    runs[place : place + 1] = [run]
    if options.baseline:
        first = [known["group"] for known in runs].index(run["group"])
        runs.insert(first, runs.pop(place))
    write_json(LOG, runs)
    LOG.with_suffix(".md").write_text(markdown(runs), encoding="utf-8")
    return 0


def _step(state: Path) -> int:
    return int(state.parent.name.removeprefix("checkpoint-"))


def _recipe(run: Mapping[str, Any]) -> Recipe:
    return recipe_from(run["recipe"], f"the recipe of {run['name']}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _text(value: Any) -> str:
    return "left out" if value is None else f"{value}".replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
