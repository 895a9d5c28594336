"""Push a checkpoint, the page or a metric to the Hub, in one commit.

    python model_card/publish.py model checkpoints/NAME OWNER/NAME [--dry-run] [--private]
    python model_card/publish.py space space OWNER/NAME
    python model_card/publish.py metric emosynthnet_hf/metrics/accuracy OWNER/accuracy

A commit is on the Hub whole or not at all, so a push that breaks off leaves what was there before
(a new repository stays empty), and running it again sends only what is missing. `--dry-run` lists
the files and sends nothing. The token is the one of `hf auth login` or of HF_TOKEN.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError

PACKAGE = Path(__file__).resolve().parent.parent / "emosynthnet_hf"
KINDS = ("model", "space", "metric")

# The code that a stranger's transformers runs, and the classes that it finds there.
CODE = tuple(
    f"{name}_emosynthnet.py" for name in ("configuration", "margin", "modeling", "image_processing")
)
MODEL_AUTO_MAP = {
    "AutoConfig": "configuration_emosynthnet.EmoSynthNetConfig",
    "AutoModel": "modeling_emosynthnet.EmoSynthNetModel",
    "AutoModelForImageClassification": "modeling_emosynthnet.EmoSynthNetForImageClassification",
}
# A list, because of a string pipelines make the name of a video processor, and run the code to look
# for it even where this package is installed.
PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": ["image_processing_emosynthnet.EmoSynthNetImageProcessor"]
}
NEEDED = ("config.json", "preprocessor_config.json", "model.safetensors", "README.md")
RECORDS = (
    "results/*.json",
    ".eval_results/*.yaml",
    "images/*.png",
    "training/*",
    "faithfulness.*",
    "robustness/*",
)

# What the card's example says about the folder, and what it says to strangers.
LOCAL_IMPORT = "import emosynthnet_hf  # registers the architecture\n"
LOCAL_PIPELINE = re.compile(r'pipeline\("image-classification", "[^"]+"\)')

TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
TOKENS_PAGE = "https://huggingface.co/settings/tokens"

Files = dict[str, bytes | Path]


def model_files(folder: Path, repo_id: str) -> Files:
    """What is pushed of a checkpoint folder, by path in the repository.

    The weights go as they are, so that their SHA-256 stays the one in the results. Configuration
    and processor are told where their code lies (`auto_map`), and the card's example names the
    repository.

    Raises:
        FileNotFoundError: a file that a checkpoint needs is missing.
        ValueError: another architecture.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} must hold {', '.join(NEEDED)}, missing: {missing}")
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "emosynthnet":
        raise ValueError(
            f"{folder}: model_type must be 'emosynthnet', got {config.get('model_type')!r}"
        )
    processor = _read_json(folder / "preprocessor_config.json")
    files: Files = {
        "config.json": _json(config | {"auto_map": MODEL_AUTO_MAP}),
        "preprocessor_config.json": _json(processor | {"auto_map": PROCESSOR_AUTO_MAP}),
        "model.safetensors": folder / "model.safetensors",
        "README.md": hub_card((folder / "README.md").read_text(encoding="utf-8"), repo_id).encode(),
    }
    files |= {name: PACKAGE / name for name in CODE}
    for pattern in RECORDS:
        files |= {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.glob(pattern))
            if path.is_file()
        }
    return files


def hub_card(text: str, repo_id: str) -> str:
    """The card of a checkpoint with its example as strangers run it, without the package."""
    there = f'pipeline("image-classification", "{repo_id}", trust_remote_code=True)'
    return LOCAL_PIPELINE.sub(there, text.replace(LOCAL_IMPORT, ""))


def space_files(folder: Path) -> Files:
    """What is pushed of a Space: its folder, and beside it the package, if the Space imports it.

    Raises:
        FileNotFoundError: no README.md, which tells the Hub how to run a Space.
    """
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} must hold README.md with the front matter of a Space")
    files = _tree(folder, folder)
    sources = [
        path.read_text(encoding="utf-8") for name, path in files.items() if name.endswith(".py")
    ]
    if any(re.search(r"^(from|import) emosynthnet_hf\b", text, re.MULTILINE) for text in sources):
        files |= _tree(PACKAGE, PACKAGE.parent)
    return dict(files)


def metric_files(folder: Path, repo_id: str) -> Files:
    """What is pushed of an `evaluate` module: its folder, which is its Space as well.

    Raises:
        FileNotFoundError: no module of the folder's name, or no README.md.
        ValueError: a repository of another name, where `evaluate.load` would not find the module.
    """
    name = folder.resolve().name
    if not (folder / f"{name}.py").is_file():
        raise FileNotFoundError(f"{folder} must hold {name}.py, the module of the metric")
    if repo_id.split("/")[-1] != name:
        raise ValueError(
            f"evaluate.load finds {name}.py in a Space called {name} only, got {repo_id!r}: "
            f"use {repo_id.split('/')[0]}/{name}"
        )
    return space_files(folder)


def collect(kind: str, folder: Path, repo_id: str) -> Files:
    """All files of a push, checked.

    Raises:
        FileNotFoundError: no such folder, or a file that must be there is not.
        ValueError: a file that holds a Hub token, or as in the functions above.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"FOLDER must be a folder, got {folder}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"the repository must be OWNER/NAME, got {repo_id!r}")
    if kind == "model":
        files = model_files(folder, repo_id)
    elif kind == "metric":
        files = metric_files(folder, repo_id)
    else:
        files = space_files(folder)
    for name, content in files.items():
        if not name.endswith((".safetensors", ".png")) and TOKEN.search(_content(content)):
            raise ValueError(f"{name} holds what looks like a Hub token: nothing was pushed")
    return files


def push(api: HfApi, kind: str, files: Files, repo_id: str, *, private: bool = False) -> CommitInfo:
    """Make the repository if it is not there, and add the files to it in one commit.

    Raises:
        HfHubHTTPError, HTTPError, RuntimeError: the Hub refused, or could not be reached.
        ValueError: a README.md that the Hub refuses, or `private` for a repository that is public.
    """
    repo_type = "model" if kind == "model" else "space"
    api.create_repo(
        repo_id,
        repo_type=repo_type,
        private=private or None,
        space_sdk=_sdk(_content(files["README.md"]).decode()) if repo_type == "space" else None,
        exist_ok=True,
    )
    if private and not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError(f"{repo_id} is there already, and public: make it private on its page")
    return api.create_commit(
        repo_id,
        [CommitOperationAdd(name, content) for name, content in files.items()],
        repo_type=repo_type,
        commit_message=f"Publish {repo_id.split('/')[-1]}",
    )


def explain(error: Exception, repo_id: str, endpoint: str, token: str | None) -> str:
    """What was got and what to do, in one line that never holds the token."""
    refusal: BaseException | None = error
    while refusal is not None and not isinstance(refusal, HfHubHTTPError):
        refusal = refusal.__cause__
    again = "A push is one commit, there whole or not at all: run the command again"
    if isinstance(refusal, HfHubHTTPError):
        status = refusal.response.status_code
        said = refusal.server_message or str(refusal)
        if isinstance(refusal, GatedRepoError):
            advice = f"{repo_id} is gated: ask for access on {endpoint}/{repo_id}"
        elif status == 401:
            advice = f"the token is not valid: make one with write access on {TOKENS_PAGE}"
        elif status == 403:
            advice = f"the token may not write to {repo_id}: give it write access on {TOKENS_PAGE}"
        elif status == 404:
            advice = f"{repo_id} is not there, or not for this token: check OWNER/NAME"
        elif status == 429:
            advice = f"too many requests: wait some minutes. {again}"
        elif status >= 500:
            advice = f"the Hub failed. {again}"
        else:
            advice = "the Hub refused"
        text = f"{status}, {advice} ({said})"
    elif isinstance(error, (HTTPError, RuntimeError)):
        text = f"the connection to {endpoint} broke: {error.__cause__ or error}. {again}"
    else:
        text = str(error)
    text = text.replace(token, "<token>") if token else text
    return " ".join(text.split())


def listing(files: Files) -> str:
    """Size in bytes and path of each file, and the sum."""
    sizes = {name: len(_content(content)) for name, content in files.items()}
    lines = [f"{size:>12,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>12,}  bytes in {len(sizes)} files"])


def _tree(folder: Path, root: Path) -> dict[str, Path]:
    """Every file below a folder, by its path below `root`; hidden ones and caches are left out."""
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(
            part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts
        )
    }


def _sdk(readme: str) -> str:
    found = re.search(r"^sdk: *(\w+)", readme, re.MULTILINE)
    if found is None:
        raise ValueError("README.md must name the sdk of the Space in its front matter")
    return found[1]


def _content(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see `python model_card/publish.py --help`."""
    parser = argparse.ArgumentParser(
        prog="python model_card/publish.py",
        description="Push a checkpoint, the page or a metric to the Hub, in one commit.",
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path, help="checkpoint, Space or metric")
    parser.add_argument("repository", help="OWNER/NAME on the Hub")
    parser.add_argument("--dry-run", action="store_true", help="list the files, push nothing")
    parser.add_argument("--private", action="store_true", help="for a repository that is new")
    options = parser.parse_args(arguments)
    api = HfApi(token=get_token())
    try:
        files = collect(options.kind, options.folder, options.repository)
        print(listing(files))
        if options.dry_run:
            print("dry run: nothing was pushed")
            return 0
        if api.token is None:
            raise ValueError(
                f"no token: set HF_TOKEN or run `hf auth login`, with write access, {TOKENS_PAGE}"
            )
        commit = push(api, options.kind, files, options.repository, private=options.private)
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        token = api.token if isinstance(api.token, str) else None
        print(f"error: {explain(error, options.repository, api.endpoint, token)}", file=sys.stderr)
        return 1
    print(f"pushed: {commit.commit_url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
