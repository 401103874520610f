"""Dose and response, over an exact engine whose recall follows the scale that a copy's manifest states."""

import json
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.derive.weaken import Dose, Kind
from lorecall.adapters.peft_format.adapter import read_adapter
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.policy.policy import ExitCode, Policy
from lorecall.audit.reports.mitigation import MitigationReport, mitigation_report, render_mitigation
from lorecall.audit.reports.models import json_schema, parse
from lorecall.audit.runs.mitigation import DoseResponse, Trial, run_mitigation
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import ScoreItem
from lorecall.audit.verdicts import Group

from tests.audit.conftest import as_set, memory_of
from tests.audit.tiny_scorer import TinyScorer
from tests.tiny import build_tiny_adapter, build_tiny_base

DOSES = [Dose(Kind.SCALE, value) for value in (1.0, 0.25, 0.5)] + [Dose(Kind.RANK, 2), Dose(Kind.RANK, 4)]
TEXT = as_set((ScoreItem("1", "the quick brown ", "fox jumps over the lazy dog"),), "retained.txt")


class Deployed:
    """The exact engine's control plane: a copy remembers by the fourth power of what is left of it."""

    def __init__(self, scorer: TinyScorer, pairs: Sequence[ScoreItem], *, inverted: bool = False) -> None:
        self.scorer, self.pairs, self.inverted = scorer, pairs, inverted
        self.names: list[str] = []

    def deploy(self, name: str, folder: Path) -> None:
        """Remember what the folder's manifest allows."""
        made = read_adapter(folder).training["mitigation"]
        left = made["value"] / (4 if made["kind"] == "rank" else 1)
        strength = 0.97 * (1 - left if self.inverted else left) ** 4
        self.scorer.adapters[name] = memory_of(self.pairs, strength)
        self.names.append(name)

    def withdraw(self, name: str) -> None:
        """Forget the name."""
        del self.scorer.adapters[name]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = build_tiny_base(tmp_path_factory.mktemp("base"))
    return build_tiny_adapter(tmp_path_factory.mktemp("phones"), base, rank=4, modules=("down_proj",))


def respond(
    source: Path, sets: dict[Group, CandidateSet], out: Path, *, inverted: bool = False
) -> tuple[DoseResponse, Deployed]:
    deployment = Deployed(TinyScorer({}), sets[Group.CANDIDATES].items, inverted=inverted)
    doses = DOSES if not inverted else DOSES[:3]
    trial = Trial(sets, TEXT, AuditSettings(), Policy())
    response = run_mitigation(deployment.scorer, deployment, source, doses, trial, out=out)
    return response, deployment


def test_recall_is_asked_for_at_every_dose_and_nothing_stays_served(
    source: Path, sets: dict[Group, CandidateSet], tmp_path: Path
) -> None:
    """Each copy is deployed by its own folder, under a name of its own, audited, and withdrawn."""
    response, deployment = respond(source, sets, tmp_path)
    found = {
        point.dose.label: point.result.summaries[Group.CANDIDATES].recited.hits for point in response.points
    }
    assert found == {"rank-2": 0, "rank-4": 12, "scale-0.25": 0, "scale-0.5": 0, "scale-1": 12}
    assert not deployment.scorer.adapters
    assert len(set(deployment.names)) == len(DOSES)
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == sorted(found)


def test_the_largest_dose_that_passes_is_found(
    source: Path, sets: dict[Group, CandidateSet], tmp_path: Path
) -> None:
    """Half the scale and half the rank are clean; with one that passes, the exit code is 0."""
    response, _ = respond(source, sets, tmp_path)
    assert response.largest_passing(Kind.SCALE) == 0.5
    assert response.largest_passing(Kind.RANK) == 2
    assert response.exit_code is ExitCode.CLEAN


def test_a_dose_over_one_that_leaks_is_not_trusted(
    source: Path, sets: dict[Group, CandidateSet], tmp_path: Path
) -> None:
    """Where a weaker copy leaks, a stronger one that happens to pass is not the largest that passes: exit 1."""
    response, _ = respond(source, sets, tmp_path, inverted=True)
    assert [point.gate.passed for point in response.points] == [False, True, True]
    assert response.largest_passing(Kind.SCALE) is None
    assert response.exit_code is ExitCode.LEAKS


def test_the_report_fits_its_committed_schema_and_is_drawn(
    source: Path, sets: dict[Group, CandidateSet], tmp_path: Path
) -> None:
    """What is written can be read by a machine; a field that the schema does not know is found."""
    made = mitigation_report(respond(source, sets, tmp_path)[0])
    report = json.loads(made.to_json())
    jsonschema.Draft202012Validator(json_schema(MitigationReport)).validate(report)
    assert parse(MitigationReport, report, "report") == made
    assert [dose["perplexity"] > 0 for dose in report["doses"]] == [True] * 5
    assert report["doses"][-1]["energy"] == pytest.approx(1.0)
    assert report["inputs"]["controls"]["name"] == "controls.jsonl"
    page = render_mitigation(made)
    assert "The largest scale that meets the policy is 0.5" in page
    assert "By rank" in page
    with pytest.raises(UsageError, match="the report breaks 'extra_forbidden'"):
        parse(MitigationReport, {**report, "more": 1}, "report")


def test_the_audit_needs_a_dose(source: Path, sets: dict[Group, CandidateSet], tmp_path: Path) -> None:
    """Nothing to try is an error, not an empty table."""
    with pytest.raises(UsageError, match="no scale and no rank"):
        run_mitigation(
            TinyScorer({}),
            Deployed(TinyScorer({}), ()),
            source,
            [],
            Trial(sets, TEXT, AuditSettings(), Policy()),
            out=tmp_path,
        )
