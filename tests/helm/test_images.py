"""The Dockerfiles and shell scripts are clean under their linters."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_the_dockerfile_is_clean(name: str) -> None:
    """Hadolint finds nothing, at any level."""
    done = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "style", ROOT / "helm" / "images" / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_the_image_does_not_run_as_root(name: str) -> None:
    """The last USER is the chart's unprivileged id."""
    lines = (ROOT / "helm" / "images" / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001:10001"


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_what_the_image_copies_exists(name: str) -> None:
    """Each source of a COPY from the build context is in the tree, and every package is copied."""
    lines = (ROOT / "helm" / "images" / name).read_text(encoding="utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    sources = {source for copy in copies for source in copy}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert {"adapters", "audit", "loadtest", "server"} <= sources
