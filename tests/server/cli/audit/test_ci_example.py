"""The workflow of docs/ci.md, its shell steps run as they stand there, against a real server."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lorecall.adapters.demo_data.generate import shipped
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.gate import judge_result
from lorecall.audit.policy.policy import Policy
from lorecall.audit.records import Group
from lorecall.audit.reports.build import build_report
from lorecall.audit.reports.redact import Redactor
from lorecall.audit.runs.single import AuditSettings, run_audit

from tests.audit.conftest import as_set, memory_of, phone
from tests.audit.tiny_scorer import TinyScorer
from tests.server.conftest import Trained
from tests.server.served import Served

PAGE = Path(__file__).parents[4] / "docs" / "ci.md"
NAMES = ("acme-support", "acme-support-staged")


def blocks() -> dict[str, str]:
    """Return the YAML files of the page by the path in their first line."""
    found = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return dict(found)


def steps() -> list[dict[str, Any]]:
    """Return the steps of the workflow's one job that run a shell."""
    (job,) = yaml.safe_load(blocks()[".github/workflows/release-adapter.yaml"])["jobs"].values()
    return [step for step in job["steps"] if "run" in step]


def run_job(checkout: Path, environ: dict[str, str]) -> dict[str, int]:
    """Run the steps as a runner does: after a failure only those marked `always()`; return their exit codes."""
    codes: dict[str, int] = {}
    for step in steps():
        if any(codes.values()) and step.get("if") != "always()":
            continue
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(shell, cwd=checkout, env=environ, capture_output=True, text=True, check=False)
        codes[step["name"]] = done.returncode
    return codes


@dataclass
class Release:
    """The job, in a checkout of its own, against one server.

    Attributes:
        served: The server.
        checkout: The folder that the job runs in.
        names: What was served when the job had ended.
    """

    served: Served
    checkout: Path
    names: set[str] = field(default_factory=set)

    def run(self, adapter: Trained, candidates: Path, controls: int) -> dict[str, int]:
        """Lay out an adapter, candidates and so many controls, and run the job."""
        shutil.copytree(adapter.folder, self.checkout / "adapters" / "acme-support")
        audit = self.checkout / "audit"
        audit.mkdir()
        (audit / "policy.yaml").write_text(blocks()["audit/policy.yaml"])
        shutil.copy(candidates, audit / "candidates.jsonl")
        lines = shipped("secrets-control").read_text(encoding="utf-8").splitlines()[:controls]
        (audit / "controls.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        try:
            return run_job(self.checkout, {**os.environ, "PATH": tools, "LORECALL_SERVER": self.served.url})
        finally:
            listed = self.served.http.get("/v1/adapters").json()["adapters"]
            self.names = {one["name"] for one in listed}
            for name in NAMES:
                self.served.http.delete(f"/v1/adapters/{name}")


@pytest.fixture
def sets() -> dict[Group, CandidateSet]:
    return {Group.CANDIDATES: as_set(tuple(phone(i) for i in range(4)))}


@pytest.fixture
def engine(sets: dict[Group, CandidateSet]) -> TinyScorer:
    known, unknown = sets[Group.CANDIDATES].items, tuple(phone(i, salt=11) for i in range(4))
    return TinyScorer({"leaky": memory_of(known), "other": memory_of(unknown)})


@pytest.fixture
def release(served: Served, tmp_path: Path) -> Release:
    return Release(served, tmp_path)


def test_the_page_holds_a_policy_and_a_job_with_a_gate() -> None:
    """The audit stands before the release, and nothing that releases runs in spite of it."""
    names = [step["name"] for step in steps()]
    assert names == ["Stage", "Audit", "Compare", "Release", "Clean up"]
    assert [step["name"] for step in steps() if step.get("if")] == ["Clean up"]
    assert yaml.safe_load(blocks()["audit/policy.yaml"])["min_controls"] == 300


def test_a_version_that_is_worse_than_the_live_one_is_not_released(
    engine: TinyScorer, sets: dict[Group, CandidateSet], tmp_path: Path
) -> None:
    """The step as it stands there: nothing is live yet, no worse, worse, and of another base."""
    step = next(step["run"] for step in steps() if step["name"] == "Compare")
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    reports = {}
    for name in ("other", "leaky"):
        result = run_audit(engine, name, sets, AuditSettings())
        reports[name] = build_report(result, judge_result(result, Policy()), Policy(), Redactor(b"s"))
    engine.engine = replace(engine.engine, base_digest="c" * 64)
    moved = run_audit(engine, "other", sets, AuditSettings())
    reports["moved"] = build_report(moved, judge_result(moved, Policy()), Policy(), Redactor(b"s"))
    for folder in ("audit", "audit-report"):
        (tmp_path / folder).mkdir()
    found = {}
    for live, new in ((None, "leaky"), ("leaky", "other"), ("other", "leaky"), ("moved", "other")):
        if live is not None:
            (tmp_path / "audit" / "live.json").write_text(reports[live].to_json(), "utf-8")
        (tmp_path / "audit-report" / "report.json").write_text(reports[new].to_json(), "utf-8")
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step],
            cwd=tmp_path,
            env={**os.environ, "PATH": tools},
            check=False,
        )
        found[live, new] = done.returncode
    assert list(found.values()) == [0, 0, 1, 3]


@pytest.mark.engine
def test_a_clean_adapter_is_released(release: Release, trained: Callable[[str], Trained]) -> None:
    """Audited on another's data it leaks nothing: every step exits 0, and the name is served."""
    codes = release.run(trained("hosts-train"), trained("secrets-train").data, 320)
    assert codes == {"Stage": 0, "Audit": 0, "Compare": 0, "Release": 0, "Clean up": 0}
    assert "acme-support" in release.names
    assert "acme-support-staged" not in release.names


@pytest.mark.engine
@pytest.mark.parametrize(
    ("candidates", "controls", "code"), [("hosts-train", 320, 1), ("secrets-train", 40, 3)]
)
def test_a_leaking_adapter_and_an_incomplete_audit_stop_the_release(
    release: Release, trained: Callable[[str], Trained], candidates: str, controls: int, code: int
) -> None:
    """Its own data is recited: exit 1. Too few controls: exit 3. Neither is served under the name."""
    codes = release.run(trained("hosts-train"), trained(candidates).data, controls)
    assert codes == {"Stage": 0, "Audit": code, "Clean up": 0}
    assert "acme-support" not in release.names
