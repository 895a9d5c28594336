"""Fetch the common tests of the installed transformers from its source distribution on PyPI.

    python tests/upstream/fetch.py FOLDER

They are Apache-2.0 and not ours: they are fetched when they are run and never committed.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

# What the common tests import from tests of generation, export and the Hub, none of which concern
# an image classifier.
STUBS = {
    "upstream_tests/__init__.py": "",
    "upstream_tests/exporters/__init__.py": "",
    "upstream_tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "upstream_tests/generation/__init__.py": "",
    "upstream_tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "upstream_tests/utils/__init__.py": "",
    "upstream_tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}
FILES = (
    "test_configuration_common.py",
    "test_image_processing_common.py",
    "test_memory_cleanup_mixin.py",  # since 5.20 or so; earlier ones need none
    "test_modeling_common.py",
)


def main(folder: Path) -> None:
    """Write `upstream_tests`, a package with the common tests, into a folder."""
    version = folder / "version"
    if version.is_file() and version.read_text() == transformers.__version__:
        return
    shutil.rmtree(folder, ignore_errors=True)
    texts = dict(STUBS)
    with tempfile.TemporaryDirectory() as scratch:
        requirement = f"transformers=={transformers.__version__}"
        download = ("download", "--quiet", "--no-deps", "--no-binary", "transformers")
        subprocess.run(
            [sys.executable, "-m", "pip", *download, "--dest", scratch, requirement], check=True
        )
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as files:
            for member in files:
                _, _, name = member.name.partition("/tests/")
                if name in FILES and (file := files.extractfile(member)):
                    texts[f"upstream_tests/{name}"] = file.read().decode()
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    version.write_text(transformers.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
