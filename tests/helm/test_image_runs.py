"""The CPU image of `make images` does the main job as the chart's pod: rootless, read-only, without a network."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.test_chart import CHART, PROFILES, ROOT, one, render, tool

pytestmark = pytest.mark.soak

DIR = Path(os.environ.get("IMAGES", ROOT / ".cache" / "images"))
SCRIPT = Path(__file__).parent / "in_image.sh"
VOLUME, SCRATCH = "/data", "/tmp"  # noqa: S108  (the chart's own mounts)


def buildah(*words: str) -> str:
    """Return what buildah prints."""
    storage = ("--root", str(DIR / "storage"), "--runroot", str(DIR / "run"), "--storage-driver", "overlay")
    return subprocess.run(
        ["buildah", *storage, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The image's files."""
    if os.geteuid() != 0 or not (DIR / "storage").is_dir():
        pytest.skip(f"no image is built in {DIR}, or this is not root: run `make images`")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    container = buildah("from", "--pull-never", f"lorecall:{version}-cpu")
    yield Path(buildah("mount", container)).resolve()
    buildah("umount", container)
    buildah("rm", container)


def run_as(
    pod: dict[str, Any], container: dict[str, Any], root: Path, volume: Path, *command: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the image with the rights, environment and mounts of one of the pod's containers.

    There is no network but its own loopback. Where nothing is mounted it is as in Kubernetes: 64 MiB of /dev/shm.
    """
    bundle = volume.parent / container["name"]
    bundle.mkdir()
    subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
    spec: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    security, ids = container["securityContext"], pod["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    spec["root"] = {"path": str(root), "readonly": security["readOnlyRootFilesystem"]}
    stated = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    spec["process"] |= {
        "terminal": False,
        "cwd": SCRATCH,
        "noNewPrivileges": not security["allowPrivilegeEscalation"],
        "user": {"uid": ids["runAsUser"], "gid": ids["runAsGroup"]},
        "capabilities": {kind: [] for kind in spec["process"]["capabilities"]},
        "env": [
            "PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin",
            *(f"{name}={it}" for name, it in stated.items()),
        ],
        "args": list(command),
    }
    places = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {VOLUME, SCRATCH} <= places
    memory = ["nosuid", "nodev", "mode=1777"]
    mounts = {mount["destination"]: mount for mount in spec["mounts"]}
    mounts[VOLUME] = {"type": "bind", "source": str(volume), "options": ["bind", "nosuid", "nodev"]}
    mounts |= {place: {"type": "tmpfs", "source": "tmpfs", "options": memory} for place in places - {VOLUME}}
    spec["mounts"] = [mount | {"destination": place} for place, mount in mounts.items()]
    (bundle / "config.json").write_text(json.dumps(spec))
    os.chown(volume, ids["runAsUser"], ids["runAsGroup"])
    state = ("--root", str(volume.parent / "runc"))
    return subprocess.run(
        ["runc", *state, "run", "--bundle", bundle, f"{container['name']}-{os.getpid()}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(3600)
def test_the_image_serves_and_audits_as_the_charts_pod(root: Path, tmp_path: Path) -> None:
    """It prepares the base, trains, serves, finds what was memorised, and ends by itself at SIGTERM."""
    volume = tmp_path / "data"
    volume.mkdir()
    (volume / SCRIPT.name).write_text(SCRIPT.read_text())
    pod = one(render(tool("helm3"), PROFILES["cpu"]), "Deployment")["spec"]["template"]["spec"]
    (first,), (server,) = pod["initContainers"], pod["containers"]
    done = run_as(pod, first, root, volume, *first["command"], *first["args"])
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_as(pod, server, root, volume, "sh", f"{VOLUME}/{SCRIPT.name}")
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout.split("\n")
    assert told[:4] == [str(pod["securityContext"]["runAsUser"]), "healthy", "audit 1", "ended 0"]
    assert told[4:] != [""], "caches that a restart would use again are not on the volume"
    report = json.loads((volume / "audit" / "report.json").read_text())
    assert report["summary"]["verdicts"]["certified"] > 0
