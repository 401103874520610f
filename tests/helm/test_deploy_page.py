"""docs/deploy.md says what the chart has: its alerts, its dashboards, values that it takes."""

import json
import re
import subprocess

import yaml

from tests.helm.queries import CHART, DASHBOARDS
from tests.helm.test_chart import ROOT, tool

PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/deploy.md", "README.md")]
DEPLOY = PAGES[0]


def test_every_alert_is_explained_and_no_other() -> None:
    """The table of alerts is that of the rules."""
    groups = yaml.safe_load((CHART / "rules" / "lorecall.yaml").read_text(encoding="utf-8"))["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert sorted(re.findall(r"^\| `(Lorecall\w+)` \|", DEPLOY, re.MULTILINE)) == sorted(alerts)


def test_every_dashboard_is_named() -> None:
    """The table of dashboards has each by its title."""
    titles = {json.loads(path.read_text(encoding="utf-8"))["title"] for path in DASHBOARDS}
    named = set(re.findall(r"^\| ((?:serving|recall)[\w ]*?) \|", DEPLOY, re.MULTILINE))
    assert {f"lorecall: {name}" for name in named} == titles


def test_the_values_of_the_documents_are_values_of_the_chart() -> None:
    """Every `--set` that a reader copies is accepted by the schema, which refuses unknown keys."""
    settings = {setting for page in PAGES for setting in re.findall(r"--set ([\w.]+=[\w/-]+)", page)}
    assert {setting.partition("=")[0] for setting in settings} >= {"registry.secret", "audit.enabled"}
    options = [part for setting in sorted(settings) for part in ("--set", setting)]
    done = subprocess.run(
        [tool("helm3"), "template", "r", CHART, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
