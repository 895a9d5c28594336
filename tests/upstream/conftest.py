"""Every skip and every expected failure of the common tests stands in expected.json, with its
reason; the run fails when one of them is missing there, or no longer happens."""

import json
from pathlib import Path
from typing import Any

import pytest

EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text(encoding="utf-8"))
UPSTREAM_MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "slow",
    "torch_compile_test",
)
seen: dict[str, str] = {}


def _name(nodeid: str) -> str:
    return nodeid.split("::", 1)[-1]


def pytest_configure(config: pytest.Config) -> None:
    for marker in UPSTREAM_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' own tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = EXPECTED["failures"].get(_name(item.nodeid))
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def pytest_runtest_logreport(report: Any) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        seen[_name(report.nodeid)] = str(report.longrepr[-1]).removeprefix("Skipped: ")


def pytest_sessionfinish(session: pytest.Session) -> None:
    ran = {Path(item.path).name for item in session.items}
    if "common.py" not in ran or session.config.option.keyword:
        return
    listed = EXPECTED["skips"]
    wrong = {name: reason for name, reason in seen.items() if name not in listed}
    wrong |= {name: "listed, but not skipped" for name in listed if name not in seen}
    for name, reason in sorted(wrong.items()):
        print(f"\nskip not as expected.json has it: {name}: {reason}")
    if wrong:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
