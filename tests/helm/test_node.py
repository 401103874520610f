"""The chart's pod on a kubelet: installed, drained under load, replaced (`make cluster`, after `make images`)."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.helm.test_chart import CHART, ROOT, tool
from tests.helm.test_cluster import DIR, TOO_NEW, Release, kubectl, running, until
from tests.helm.test_image_runs import DIR as IMAGES
from tests.helm.test_image_runs import buildah
from tests.helm.test_release import copy

pytestmark = pytest.mark.soak

SCRIPT = ROOT / "helm" / "cluster" / "node.sh"
KEY = "an-api-key-of-these-tests"
HEADERS = {"Authorization": f"Bearer {KEY}"}
SHORT, LONG = 24, 1500
"""Tokens of the answers that follow each other, and of those that the end of the pod comes upon."""
VALUES = {
    "image": {"repository": "localhost/lorecall"},
    "resources": {"cpu": {"requests": {"cpu": "1", "memory": "2Gi"}}},
    "server": {"startupSeconds": 1800, "shutdownSeconds": 500, "terminationGracePeriodSeconds": 540},
}
VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 20Gi}}
  accessModes: [ReadWriteOnce]
  local: {{path: {path}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions:
    [{{key: kubernetes.io/hostname, operator: In, values: [node]}}]}}]}}}}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """A cluster with this machine as its node, which has the CPU image."""
    built = (DIR / "bin" / "kubelet").exists() and (IMAGES / "storage").is_dir()
    if os.geteuid() != 0 or not built or not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("no kubelet or image, no root, or no cgroup v1: run `make images`, then `make cluster`")
    with running():
        try:
            subprocess.run([SCRIPT, "start", DIR], check=True, timeout=300)
            give_image()
            yield
        finally:
            subprocess.run([SCRIPT, "stop", DIR], check=True, timeout=120)


def give_image() -> None:
    """Have the node's containerd know the image that was built last."""
    name = f"lorecall:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}-cpu"
    archive, known = DIR / "node" / "image.tar", DIR / "node" / "root" / "image"
    built = buildah("images", "--quiet", "--no-trunc", name)
    if not known.exists() or known.read_text() != built:
        archive.unlink(missing_ok=True)
        buildah("push", "--quiet", name, f"docker-archive:{archive}:localhost/{name}")
        subprocess.run([SCRIPT, "import", DIR, archive], check=True, capture_output=True)
        archive.unlink()
        known.write_text(built)


class Served:
    """The release's service as a router sees it, and what its answers were.

    Attributes:
        release: The release.
        wrong: Each answer that was not whole.
        whole: Each that was.
        begun: Released when a long answer has begun.
    """

    def __init__(self, release: Release) -> None:
        self.release = release
        self.wrong: list[str] = []
        self.whole: list[str] = []
        self.begun = threading.Semaphore(0)
        self._left = threading.Event()

    def address(self) -> str:
        """Where requests go: "" once no pod is to get any."""
        (found,) = [one for one in self.release.get("endpoints") if one["metadata"]["name"] == "r-lorecall"]
        ready = [one["ip"] for part in found.get("subsets", []) for one in part.get("addresses", [])]
        return f"http://{ready[0]}:8000" if ready else ""

    def leave(self) -> None:
        """Send nothing more."""
        self._left.set()

    def go_on(self, url: str) -> None:
        """Ask one thing after the other, until there is nobody to ask."""
        while not self._left.is_set():
            self.ask(url, SHORT)

    def ask(self, url: str, tokens: int) -> None:
        """Ask for a streamed answer, and note whether it came whole."""
        count, ended, http = 0, "", httpx.Client(base_url=url, headers=HEADERS, timeout=600)
        try:
            with http, http.stream("POST", "/v1/completions", json=body(url, tokens)) as told:
                ended = str(told.status_code)
                for number, line in enumerate(told.iter_lines()):
                    if tokens == LONG and number == 0:
                        self.begun.release()
                    if line.startswith("data: {"):
                        for choice in json.loads(line.removeprefix("data: ")).get("choices", []):
                            count += len(choice["token_ids"] or [])
                            ended = choice["finish_reason"] or ended
        except httpx.HTTPError as error:
            ended = repr(error)
        (self.whole if (count, ended) == (tokens, "length") else self.wrong).append(f"{count}, {ended}")


@cache
def base(url: str) -> str:
    """The name of the base."""
    return str(httpx.get(f"{url}/v1/models", headers=HEADERS, timeout=60).json()["data"][0]["id"])


def body(url: str, tokens: int) -> dict[str, Any]:
    """A request whose answer has so many tokens."""
    greedy = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return {"model": base(url), "prompt": "Once", **greedy, "stream": True, "return_token_ids": True}


def refuses(url: str) -> bool:
    """Whether the server takes nothing new."""
    try:
        asked = body(url, 1)
        return httpx.post(f"{url}/v1/completions", json=asked, headers=HEADERS, timeout=60).status_code == 503
    except httpx.HTTPError:
        return True


def statuses(pod: dict[str, Any]) -> dict[str, str]:
    """What the kernel says of the server's process."""
    for folder in Path("/proc").iterdir():
        try:
            theirs = pod["metadata"]["uid"] in (folder / "cgroup").read_text()
            if theirs and "\0serve\0" in (folder / "cmdline").read_text():
                lines = (folder / "status").read_text().splitlines()
                return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        except OSError:
            continue  # no process, or it ended
    raise AssertionError("no process of the pod serves")


@pytest.mark.usefixtures("node")
@pytest.mark.timeout(7000)
def test_a_pod_serves_and_drains_under_load(tmp_path: Path) -> None:
    """Its containers have the rights that the chart gives; it is deleted under load, and no request fails.

    Requests go where the service's endpoints say. Those that run when the server is told to end, after it has
    refused new ones, come to their end; the next pod serves from the same volume.
    """
    release = Release(tool("helm3"), copy(tmp_path, TOO_NEW), f"n{time.time_ns()}")
    here = ("-n", release.namespace)
    volume, values = tmp_path / "volume", tmp_path / "values.yaml"
    volume.mkdir()
    values.write_text(json.dumps(VALUES))
    kubectl("create", "namespace", release.namespace)
    kubectl(*here, "create", "secret", "generic", "lorecall-api-key", f"--from-literal=api-key={KEY}")
    kubectl("apply", "-f", "-", given=VOLUME.format(name=release.namespace, path=volume))
    try:
        release.start("install", "--values", values)
        assert release.succeeds(), release.said()
        available = ("wait", "--for=condition=Available", "deployment/r-lorecall", "--timeout=3000s")
        kubectl(*here, *available)
        (pod,) = release.get("pod")
        assert [one["restartCount"] for one in pod["status"]["containerStatuses"]] == [0]
        told = statuses(pod)
        assert told["Uid"].split() == ["10001"] * 4
        assert (int(told["CapEff"], 16), told["NoNewPrivs"], told["Seccomp"]) == (0, "1", "2")

        served = Served(release)
        url = served.address()
        with ThreadPoolExecutor() as threads:
            try:
                going = [threads.submit(served.go_on, url) for _ in range(3)]
                long = [threads.submit(served.ask, url, LONG) for _ in range(2)]
                assert all(served.begun.acquire(timeout=300) for _ in long)
                kubectl(*here, "delete", "pod", pod["metadata"]["name"], "--wait=false")
                until(lambda: not served.address())
            finally:
                served.leave()
            for one in going:
                one.result()
            while not refuses(url):
                time.sleep(0.2)
            assert not all(one.done() for one in long), "nothing ran when the server was told to end"
        assert served.wrong == []
        assert len(served.whole) > len(long)

        kubectl(*here, "wait", "--for=delete", f"pod/{pod['metadata']['name']}", "--timeout=600s")
        kubectl(*here, *available)
        again = Served(release)
        again.ask(again.address(), SHORT)
        assert (again.wrong, len(again.whole)) == ([], 1)
    finally:
        release.close()
        kubectl("delete", "namespace", release.namespace, "--timeout=900s")
        kubectl("delete", "pv", release.namespace, "--wait=false")
