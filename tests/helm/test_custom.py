"""Custom resources of the chart are what their CRDs take: the Gateway API's, KEDA's, the Prometheus operator's.

InferencePool is compared with its golden file alone: nobody packs its CRD.
"""

import json
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.test_chart import CHART, CUSTOM, PROFILES, run, tool

KINDS = CUSTOM - {"InferencePool"}
SETTINGS = (
    "httpRoute.enabled=true,httpRoute.parentRefs[0].name=gateway,httpRoute.hostnames[0]=models.example.org"
)


def rendered(*options: str | Path) -> list[dict[str, Any]]:
    """The custom resources of a release."""
    done = run(tool("helm3"), "template", "r", CHART, *options)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each and each["kind"] in KINDS]


def complaints(manifests: list[dict[str, Any]]) -> list[str]:
    """What the CRDs' checks say against manifests; skipped without node or the packages."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the CRDs' checks are in JavaScript")
    models = tool("models") / "node_modules" / "@kubernetes-models"
    command = ["node", str(Path(__file__).with_name("custom.mjs")), str(models)]
    done = subprocess.run(command, input=json.dumps(manifests), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    """One of each kind, and another HTTPRoute: to the Service."""
    found = [each for profile in ("all", "fleet") for each in rendered("--values", PROFILES[profile])]
    return [*found, *rendered("--set", SETTINGS)]


def test_every_custom_resource_is_what_its_crd_takes(manifests: list[dict[str, Any]]) -> None:
    """Types and patterns of their fields, and no field that the CRD does not have."""
    assert {each["kind"] for each in manifests} == KINDS
    assert complaints(manifests) == []


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "request"), "soon", "request must match pattern"),
        ("HTTPRoute", ("spec", "rules", 0, "backendRefs", 0, "port"), 80000, "port must be <= 65535"),
        ("HTTPRoute", ("spec", "rules", 0, "timeout"), "1s", "/spec/rules/0/timeout is no field"),
        ("ScaledObject", ("spec", "cooldownPeriod"), "600", "cooldownPeriod must be integer"),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 4, "threshold must be string"),
        ("ScaledObject", ("spec", "minReplicas"), 1, "/spec/minReplicas is no field"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "often", "interval must match pattern"),
        ("ServiceMonitor", ("spec", "endpoint"), [], "/spec/endpoint is no field"),
        ("ServiceMonitor", ("metadata", "labels", "pool"), 1, "pool must be string"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "for"), 5, "for must be string"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "unless"), "1m", "unless is no field"),
    ],
)
def test_what_a_crd_refuses_is_found(
    manifests: list[dict[str, Any]], kind: str, path: tuple[str | int, ...], value: object, said: str
) -> None:
    """A value of the wrong type or form, and a field that is written otherwise, each with its place."""
    spoiled = deepcopy(next(each for each in manifests if each["kind"] == kind))
    at: Any = spoiled
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    (complaint,) = complaints([spoiled])
    assert complaint.startswith(f"{kind}: ")
    assert said in complaint
