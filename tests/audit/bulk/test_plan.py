"""What lets a bulk audit go on, and what stops it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lorecall.adapters.core.errors import AdapterError, UsageError
from lorecall.audit.bulk.plan import (
    NAME,
    BulkPlan,
    alone,
    check_unmoved,
    digest_of,
    load_plan,
    plan_adapters,
    save_plan,
)
from lorecall.audit.inputs.candidates import CandidateSet
from lorecall.audit.runs.single import AuditSettings
from lorecall.audit.scorer import AdapterVersion
from lorecall.audit.verdicts import Group

from tests.audit.tiny_scorer import TinyScorer

ASKED = digest_of({"seed": 0})


@pytest.fixture
def plan(sets: dict[Group, CandidateSet], engine: TinyScorer) -> BulkPlan:
    """The plan of an audit of two adapters."""
    return BulkPlan(
        asked=ASKED,
        started="2026-01-01T00:00:00+00:00",
        engine=engine.info(),
        adapters=plan_adapters(engine, ["leaky", "other"], sets, AuditSettings()),
        sources={group: one.source for group, one in sets.items()},
        sizes={group: len(one.items) for group, one in sets.items()},
        together=1,
        block=5,
    )


def test_a_plan_is_read_as_it_was_written(
    plan: BulkPlan, sets: dict[Group, CandidateSet], tmp_path: Path
) -> None:
    """With its blocks; what a killed audit left there is gone. No text stands in it."""
    (tmp_path / ".00000000.parquet.part").write_text("left")
    assert load_plan(tmp_path, ASKED) is None
    save_plan(plan, sets, tmp_path)
    assert load_plan(tmp_path, ASKED) == plan
    assert {path.name for path in tmp_path.iterdir()} == {NAME, *(block.file for block in plan.blocks)}
    assert [list(members) for members in plan.groups] == [[0], [1]]
    assert not any(item.target in (tmp_path / NAME).read_text() for item in sets[Group.CANDIDATES].items)


def test_other_options_and_other_versions_are_refused(
    plan: BulkPlan, sets: dict[Group, CandidateSet], tmp_path: Path
) -> None:
    """And a file that is no plan; none of its values is quoted."""
    save_plan(plan, sets, tmp_path)
    with pytest.raises(UsageError, match="other inputs or options"):
        load_plan(tmp_path, digest_of({"seed": 1}))
    told = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**told, "together": "a secret"}))
    with pytest.raises(UsageError, match="no plan of this version") as error:
        load_plan(tmp_path, ASKED)
    assert "secret" not in str(error.value)


def test_an_audit_goes_on_only_with_what_it_began_on(
    plan: BulkPlan, engine: TinyScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of an adapter, or another engine, would give half of the rows."""
    check_unmoved(plan, engine)
    later = replace(plan, engine=replace(plan.engine, base_digest="c" * 64))
    with pytest.raises(UsageError, match="now meets"):
        check_unmoved(later, engine)
    swapped = AdapterVersion("leaky", "f" * 64, 8, 8000)
    monkeypatch.setattr(engine, "adapter", lambda _name: swapped)
    with pytest.raises(UsageError, match="another version than when the audit began"):
        check_unmoved(plan, engine)


def test_a_version_is_audited_once(
    sets: dict[Group, CandidateSet], engine: TinyScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the first of its names; an adapter that cannot be audited by scores is refused."""
    same = engine.adapter("leaky")
    monkeypatch.setattr(engine, "adapter", lambda name: replace(same, name=name))
    found = plan_adapters(engine, ["a", "b"], sets, AuditSettings())
    assert [one.adapter.name for one in found] == ["a"]
    monkeypatch.setattr(engine, "adapter", lambda name: replace(same, name=name, refusal="lm_head"))
    with pytest.raises(AdapterError, match="lm_head"):
        plan_adapters(engine, ["a"], sets, AuditSettings())


def test_two_audits_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """The second is told, and the first one's end lets it in; a fault inside is not taken for that."""
    with alone(tmp_path), pytest.raises(UsageError, match="another bulk audit"), alone(tmp_path):
        raise AssertionError
    with pytest.raises(BlockingIOError), alone(tmp_path):
        raise BlockingIOError
