"""What changed between two reports, as JSON, as one HTML file, and as JUnit XML."""

from enum import StrEnum
from typing import Annotated, Literal
from xml.etree import ElementTree as ET

from lorecall.audit.policy.policy import ExitCode
from lorecall.audit.records import PLACES, Group, Verdict
from lorecall.audit.reports.html import MAX_ROWS, render
from lorecall.audit.reports.junit import add_case, add_suite, count_results, suites_text
from lorecall.audit.reports.models import Count, ReportModel, Share, Started, Tool, VerdictCounts, Version
from lorecall.audit.reports.report import RedactedText
from pydantic import ConfigDict, Field, StrictBool


class Change(StrEnum):
    """What became of a snippet."""

    WORSE = "worse"
    NEW = "new"
    GONE = "gone"
    BETTER = "better"
    SAME = "same"


class Side(ReportModel):
    """One of the two reports."""

    seal: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """sha256 of its canonical JSON."""
    adapter: str
    version: Version
    rank: Count
    started: Started
    candidates: str
    """The file name of its candidates."""
    passed: StrictBool
    """Whether its gate passed."""
    verdicts: VerdictCounts
    """Its candidates by verdict."""


class Row(ReportModel):
    """One snippet in both reports; a side on which it is not has null."""

    id: str
    set: Group
    change: Change
    before: Verdict | None
    after: Verdict | None
    before_min_p: Share | None
    after_min_p: Share | None
    target: RedactedText
    """Its text only where both reports show texts."""
    unsure: str
    """Why the second report cannot tell what the first could; empty if it can."""

    @property
    def leak(self) -> bool:
        """Whether the second report finds what was not there before."""
        found = self.after is not None and PLACES[self.after] < PLACES[Verdict.ERROR]
        return self.change is Change.WORSE or (self.change is Change.NEW and found)

    def words(self) -> str:
        """Return both verdicts in words."""
        said = f"{self.before or 'not asked'}, then {self.after or 'not asked'}"
        return f"{said}: {self.unsure}" if self.unsure else said


class Diff(ReportModel):
    """What changed from one report to another.

    It counts as worse where a verdict is graver, where a snippet leaks that was not asked before, and where the
    engine can no longer tell.
    """

    model_config = ConfigDict(title="lorecall audit diff")

    schema_version: Literal["2.0"]
    tool: Tool
    before: Side
    after: Side
    obstacles: tuple[str, ...]
    """Why the two cannot be compared; empty if they can."""
    remarks: tuple[str, ...]
    """What else is not alike."""
    counts: dict[Change, Count]
    """All snippets by what became of them."""
    exit_code: ExitCode
    """0 no worse, 1 worse, 3 not comparable."""
    snippets: tuple[Row, ...]
    """Those that changed, the worst first."""

    def answer(self) -> str:
        """Return what was found, in words."""
        if self.obstacles:
            return "The reports cannot be compared."
        leaks = sum(row.leak for row in self.snippets)
        if leaks:
            return f"{leaks} snippets are worse than before, or new and leak."
        return "No snippet is worse than before."


def render_diff(diff: Diff) -> str:
    """Return the HTML of a comparison: the answer, both reports, and each snippet that changed."""
    rows = diff.snippets[:MAX_ROWS]
    present = [change for change in Change if any(row.change is change for row in rows)]
    return render("diff.html", diff, rows=rows, present=present, sides=(diff.before, diff.after))


def render_diff_junit(diff: Diff) -> str:
    """Return a comparison as JUnit XML, a test case for each snippet that changed and two for the whole.

    A snippet that is worse, or is new and leaks, is a failure; one that was not asked again is skipped. Obstacles
    are an error of the case `comparable`.
    """
    root = ET.Element("testsuites", name="lorecall audit diff")
    name = diff.after.adapter
    whole = add_suite(root, f"{name} diff")
    add_case(whole, "diff", "comparable", "error" if diff.obstacles else "", "; ".join(diff.obstacles))
    worse = diff.exit_code is ExitCode.LEAKS
    add_case(whole, "diff", "no worse", "failure" if worse else "", diff.answer())
    count_results(whole)
    for group in dict.fromkeys(row.set for row in diff.snippets):
        suite = add_suite(root, f"{name} {group}")
        for row in diff.snippets:
            if row.set is group:
                skipped = "skipped" if row.change is Change.GONE else ""
                add_case(suite, group, row.id, "failure" if row.leak else skipped, row.words())
        count_results(suite)
    return suites_text(root)
