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


def container_of(manifests: list[dict[str, Any]], root: Path, volume: Path) -> dict[str, Any]:
    """Return an OCI runtime's configuration that has what the chart's pod asks for."""
    pod = one(manifests, "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    security, ids = server["securityContext"], pod["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    subprocess.run(["runc", "spec", "--bundle", volume], check=True)
    spec: dict[str, Any] = json.loads((volume / "config.json").read_text())
    spec["root"] = {"path": str(root), "readonly": security["readOnlyRootFilesystem"]}
    stated = {each["name"]: each["value"] for each in server["env"] if "value" in each}
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
        "args": ["sh", f"{VOLUME}/{SCRIPT.name}"],
    }
    own = {mount["mountPath"] for mount in server["volumeMounts"]}
    assert {VOLUME, SCRATCH} <= own
    spec["mounts"] += [
        {
            "destination": VOLUME,
            "type": "bind",
            "source": str(volume),
            "options": ["bind", "nosuid", "nodev"],
        },
        {
            "destination": SCRATCH,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777"],
        },
    ]
    return spec


@pytest.mark.timeout(3600)
def test_the_image_serves_and_audits_as_the_charts_pod(root: Path, tmp_path: Path) -> None:
    """It prepares the base, trains, serves, finds what was memorised, and ends by itself at SIGTERM."""
    volume = tmp_path / "data"
    volume.mkdir()
    spec = container_of(render(tool("helm3"), PROFILES["cpu"]), root, volume)
    (volume / "config.json").write_text(json.dumps(spec))
    (volume / SCRIPT.name).write_text(SCRIPT.read_text())
    user = spec["process"]["user"]
    os.chown(volume, user["uid"], user["gid"])
    name = f"lorecall-{os.getpid()}"
    done = subprocess.run(
        ["runc", "--root", tmp_path / "runc", "run", "--bundle", volume, name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout.split("\n")
    assert told[:4] == [str(user["uid"]), "healthy", "audit 1", "ended 0"]
    assert told[4:] != [""], "caches that a restart would use again are not on the volume"
    report = json.loads((volume / "audit" / "report.json").read_text())
    assert report["summary"]["verdicts"]["certified"] > 0
