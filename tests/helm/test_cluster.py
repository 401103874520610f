"""The chart before a real Kubernetes API server: what is accepted, installed, upgraded, removed (`make cluster`).

The server is 1.20, the last that Debian's sources hold whole, without a node: where a pod would have to run, a
test says in its place how it ended. The chart asks for 1.27, so installs use a copy without that one line.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helm import test_chart
from tests.helm.test_chart import PROFILES, ROOT, run, tool
from tests.helm.test_release import AUDIT, MIGRATION, SERVER, VOLUME, copy

pytestmark = pytest.mark.soak

DIR = Path(os.environ.get("CLUSTER", ROOT / ".cache" / "cluster"))
SCRIPT = ROOT / "helm" / "cluster" / "cluster.sh"
TOO_NEW = ("Chart.yaml", 'kubeVersion: ">=1.27.0-0"', 'kubeVersion: ">=1.20.0-0"')
PATIENCE_S = 60
KINDS = (
    "deployment",
    "service",
    "persistentvolumeclaim",
    "networkpolicy",
    "servicemonitor",
    "prometheusrule",
)
TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"


@contextmanager
def running() -> Iterator[None]:
    """The server, for kubectl and helm."""
    if not (DIR / "bin" / "kube-apiserver").exists():
        pytest.skip("no API server is built: run `make cluster`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(DIR / "state" / "kubeconfig"))
        subprocess.run([SCRIPT, "start", DIR], check=True, timeout=180)
        try:
            kubectl("apply", "-f", ROOT / "helm" / "cluster" / "crds.yaml")
            kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            yield
        finally:
            subprocess.run([SCRIPT, "stop", DIR], check=True, timeout=60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """The server, without a node."""
    with running():
        yield


def kubectl(*words: str | Path, given: str = "") -> str:
    """What kubectl prints."""
    done = subprocess.run(
        [DIR / "bin" / "kubectl", *words], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(happens: Callable[[], Any]) -> Any:
    """Wait until something is there, and return it."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with suppress(AssertionError):
            if found := happens():
                return found
        time.sleep(0.2)
    raise AssertionError("it never happened")


@dataclass
class Release:
    """A release of a chart in a namespace of its own.

    Attributes:
        helm: The helm that makes it.
        chart: The chart.
        namespace: Where.
    """

    helm: Path
    chart: Path
    namespace: str
    _running: subprocess.Popen[bytes] | None = None

    def start(self, verb: str, *words: str | Path) -> None:
        """Begin to install or upgrade it."""
        command = [self.helm, "-n", self.namespace, verb, "r", self.chart, "--timeout", "60s", *words]
        with (self.chart / "log").open("w") as log:
            self._running = subprocess.Popen(command, stdout=log, stderr=log)

    def succeeds(self) -> bool:
        """Wait for the end of what was started; whether it ended well."""
        assert self._running is not None
        return self._running.wait() == 0

    def said(self) -> str:
        """What it printed."""
        return (self.chart / "log").read_text(encoding="utf-8")

    def close(self) -> None:
        """End what still runs."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    def get(self, *what: str) -> list[dict[str, Any]]:
        """The objects of some kinds."""
        found = kubectl("-n", self.namespace, "get", ",".join(what), "-o", "json")
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def names(self, *what: str) -> set[str]:
        """Kind and name of each."""
        return {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in self.get(*what)}

    def pending(self, component: str) -> str:
        """The name of a pod that waits for a node; "" for none."""
        pods = [
            one["metadata"]["name"]
            for one in self.get("pod")
            if one["metadata"]["labels"].get("app.kubernetes.io/component") == component
            and one["status"]["phase"] == "Pending"
        ]
        return pods[0] if pods else ""

    def ends(self, component: str, phase: str) -> None:
        """Say for the node that is not there what became of a pod."""
        pod = until(lambda: self.pending(component))
        ready = {"type": "Ready", "status": str(phase == "Running"), "lastTransitionTime": None}
        self.patch(f"pod/{pod}", {"phase": phase, "conditions": [ready]})

    def patch(self, what: str, status: dict[str, Any]) -> None:
        """Set a status."""
        words = ("patch", what, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        kubectl("-n", self.namespace, *words)


@pytest.fixture(params=["helm3", "helm4"])
def release(request: pytest.FixtureRequest, cluster: None, tmp_path: Path) -> Iterator[Release]:  # noqa: ARG001  it runs
    """A release that is not installed yet, and the Secrets that it needs."""
    made = Release(tool(request.param), copy(tmp_path, TOO_NEW), f"n{time.time_ns()}")
    kubectl("create", "namespace", made.namespace)
    secret = ("-n", made.namespace, "create", "secret", "generic")
    kubectl(*secret, "lorecall-key", "--from-literal=api-key=an-api-key-of-these-tests")
    kubectl(*secret, "lorecall-registry", "--from-literal=url=postgresql://u:p@db/d")
    yield made
    made.close()
    kubectl("delete", "namespace", made.namespace, "--wait=false")


def install(release: Release) -> None:
    """Install it with all that the chart has; its migration ends well."""
    release.start("install", "--values", PROFILES["all"])
    until(lambda: release.pending("migration"))
    assert release.names("deployment") == set()
    release.ends("migration", "Succeeded")
    assert release.succeeds(), release.said()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("profile", ["cpu", "gpu", "all"])
@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_the_server_takes_every_manifest(helm: str, profile: str) -> None:
    """A dry run on the server's side; the chart as it is."""
    done = run(tool(helm), "template", "r", test_chart.CHART, "--values", PROFILES[profile])
    kubectl("apply", "--dry-run=server", "-f", "-", given=done.stdout)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_this_old_server_is_refused(helm: str) -> None:
    """By the chart as it is."""
    done = run(tool(helm), "install", "r", test_chart.CHART)
    assert "chart requires kubeVersion" in done.stderr


def test_a_release_is_installed_upgraded_and_removed(release: Release) -> None:
    """Migration first, or nothing changes; a volume that stays, and that the next release takes."""
    install(release)
    assert "job/r-lorecall-migrate" not in release.names("job")
    assert {f"{kind}/r-lorecall" for kind in KINDS} <= release.names(*KINDS)
    for component in ("server", "audit"):
        release.ends(component, "Running")
    kubectl("-n", release.namespace, "rollout", "status", "deployment/r-lorecall", "--timeout=30s")
    pods = release.get("pod")
    mounts = [mount for pod in pods for part in pod["spec"]["containers"] for mount in part["volumeMounts"]]
    assert TOKENS not in {mount["mountPath"] for mount in mounts}

    wanted = ("--reset-then-reuse-values", "--set", "server.maxLoras=4")
    release.start("upgrade", *wanted)
    until(lambda: release.pending("migration"))
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    release.patch("job/r-lorecall-migrate", {"conditions": [failed]})
    assert not release.succeeds()
    assert generation(release) == 1

    kubectl("-n", release.namespace, "delete", "job/r-lorecall-migrate", "--wait=true")
    release.start("upgrade", *wanted)
    release.ends("migration", "Succeeded")
    assert release.succeeds(), release.said()
    assert generation(release) == 2

    assert run(release.helm, "-n", release.namespace, "uninstall", "r").returncode == 0
    assert release.names("persistentvolumeclaim") == {"persistentvolumeclaim/r-lorecall"}
    until(lambda: not release.names("deployment"))
    release.start("install", "--values", PROFILES["cpu"])
    assert release.succeeds(), release.said()


def generation(release: Release) -> int:
    """How often the server's Deployment was changed."""
    (found,) = [one for one in release.get("deployment") if one["metadata"]["name"] == "r-lorecall"]
    return int(found["metadata"]["generation"])


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ((SERVER, "containerPort: 8000", "containerPort: 80000"), "must be between 1 and 65535"),
        ((MIGRATION, "{name: HOME, value: /tmp}", "{name: HOME, value: 4}"), "but found 4"),
        ((AUDIT, "  replicas: 1", "  replica: 1"), 'unknown field "replica"'),
        ((AUDIT, "component: audit\n  template", "component: server\n  template"), "does not match template"),
    ],
    ids=["port", "number", "field", "selector"],
)
def test_the_server_refuses_what_is_wrong(tmp_path: Path, edit: tuple[str, str, str], said: str) -> None:
    """So that its acceptance means something."""
    done = run(tool("helm3"), "template", "r", copy(tmp_path, edit), "--values", PROFILES["all"])
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError, match=said):
        kubectl("apply", "--dry-run=server", "-f", "-", given=done.stdout)


@pytest.mark.parametrize(
    ("edit", "caught"),
    [
        ((MIGRATION, "helm.sh/hook: pre-install,pre-upgrade", "note: none"), "deployment/r-lorecall"),
        ((VOLUME, "helm.sh/resource-policy: keep", "note: gone"), "persistentvolumeclaim/r-lorecall"),
        ((AUDIT, "ServiceAccountToken: false", "ServiceAccountToken: true"), "kubernetes.io/serviceaccount"),
    ],
    ids=["no hooks", "a volume that is not kept", "a token"],
)
def test_a_broken_chart_is_caught(release: Release, edit: tuple[str, str, str], caught: str) -> None:
    """The life of a release ends otherwise with it."""
    path = release.chart / edit[0]
    path.write_text(path.read_text(encoding="utf-8").replace(*edit[1:]), encoding="utf-8")
    with pytest.raises(AssertionError, match=caught):
        test_a_release_is_installed_upgraded_and_removed(release)
