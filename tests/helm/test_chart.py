"""The chart renders to what a cluster accepts, with real helm 3 and 4, and keeps its promises about safety.

The tools come from `make tools`; where one cannot be fetched, its tests are skipped by name.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate  # type: ignore[import-untyped]  # ships no types

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "lorecall"
TOOLS = ROOT / ".cache" / "tools"
GOLDEN = Path(__file__).parent / "golden"
PROFILES = {name: GOLDEN / f"{name}.values.yaml" for name in ("cpu", "gpu", "all")}
CUSTOM = {"ServiceMonitor", "PrometheusRule"}


def tool(name: str) -> Path:
    """Return a tool's path, or skip."""
    path = TOOLS / name
    if not path.exists():
        pytest.skip(f"no {name} in .cache/tools: run `make tools` where npm and apt-get work")
    return path


@pytest.fixture(params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> Path:
    """Each helm in turn."""
    return tool(request.param)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool and return what it printed."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def render(helm: Path, values: Path) -> list[dict[str, Any]]:
    """Return the manifests of a release named "r"."""
    done = run(helm, "template", "r", CHART, "--values", values)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the only manifest of a kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def test_the_chart_passes_strict_lint(helm: Path) -> None:
    """`helm lint --strict` finds nothing."""
    done = run(helm, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_every_manifest_is_what_kubernetes_accepts(helm: Path, profile: str) -> None:
    """Each built-in resource validates against Kubernetes' own schema, unknown fields refused."""
    manifests = render(helm, PROFILES[profile])
    kinds = {manifest["kind"] for manifest in manifests}
    assert {"Deployment", "Service", "ServiceAccount", "PersistentVolumeClaim", "NetworkPolicy"} <= kinds
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            validate(manifest, "1.31", strict=True)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_chart_renders_to_its_golden_file(profile: str) -> None:
    """What a change of the chart changes for a cluster is seen in review; `make golden` rewrites the files."""
    done = run(tool("helm3"), "template", "r", CHART, "--values", PROFILES[profile])
    assert done.stdout == (GOLDEN / f"{profile}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("profile", PROFILES)
def test_both_helms_render_the_same(profile: str) -> None:
    """Helm 3 and helm 4 give the same manifests."""
    three, four = (render(tool(name), PROFILES[profile]) for name in ("helm3", "helm4"))
    assert sorted(three, key=json.dumps) == sorted(four, key=json.dumps)


def test_every_container_runs_without_privileges(helm: Path) -> None:
    """Non-root, no escalation, no capabilities, a read-only root, no API token, the default seccomp."""
    pod = one(render(helm, PROFILES["cpu"]), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_kubernetes_sets_no_variable_with_our_prefix(helm: Path) -> None:
    """A Service named lorecall would set LORECALL_PORT, which the server refuses as an unknown setting."""
    pod = one(render(helm, PROFILES["cpu"]), "Deployment")["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False


def test_only_the_gpu_profile_asks_for_a_gpu(helm: Path) -> None:
    """The profile picks image and resources."""
    for profile, gpus in (("cpu", None), ("gpu", 1)):
        pod = one(render(helm, PROFILES[profile]), "Deployment")["spec"]["template"]["spec"]
        (server,) = pod["containers"]
        assert server["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert server["image"].endswith(f"-{profile}")


@pytest.mark.parametrize(("profile", "secret"), [("all", "lorecall-key"), ("cpu", "lorecall-api-key")])
def test_the_api_key_comes_from_the_secret(helm: Path, profile: str, secret: str) -> None:
    """The key is a reference, never a value in the manifest; no release is without one."""
    pod = one(render(helm, PROFILES[profile]), "Deployment")["spec"]["template"]["spec"]
    environ = pod["containers"][0]["env"]
    (key,) = [variable for variable in environ if variable["name"] == "LORECALL_ADMIN_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": secret, "key": "api-key"}}


def test_the_service_and_the_policy_select_the_pod(helm: Path) -> None:
    """What Service, NetworkPolicy and ServiceMonitor select by are labels of the pod or the Service."""
    manifests = render(helm, PROFILES["all"])
    labels = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    service = one(manifests, "Service")
    assert service["spec"]["selector"].items() <= labels
    assert one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    monitor = one(manifests, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_the_rules_and_the_dashboards_reach_the_cluster_whole(helm: Path) -> None:
    """Braces of alert templates and of JSON survive rendering."""
    manifests = render(helm, PROFILES["all"])
    rules = yaml.safe_load((CHART / "rules" / "lorecall.yaml").read_text(encoding="utf-8"))
    assert one(manifests, "PrometheusRule")["spec"] == rules
    shipped = one(manifests, "ConfigMap")["data"]
    assert {name: json.loads(text) for name, text in shipped.items()} == {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in (CHART / "dashboards").glob("*.json")
    }


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("profile=tpu", "profile"),
        ("server.maxLoraRank=24", "maxLoraRank"),
        ("server.maxLoras=0", "maxLoras"),
        ("service.port=70000", "port"),
        ("persistence.size=lots", "size"),
        ("nonsense=1", "nonsense"),
        ("base.quantize=int3", "quantize"),
    ],
)
def test_a_bad_value_is_refused_by_name(helm: Path, value: str, named: str) -> None:
    """The values' schema refuses unknown keys and what the server would refuse, before anything is applied."""
    done = run(helm, "template", "r", CHART, "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    """Prometheus' own unit tests of the rules: each alert on its trouble, none on a healthy server."""
    promtool = tool("promtool")
    for command in (
        ("check", "rules", CHART / "rules" / "lorecall.yaml"),
        ("test", "rules", ROOT / "tests" / "helm" / "rules_test.yaml"),
    ):
        done = run(promtool, *command)
        assert done.returncode == 0, done.stdout + done.stderr
