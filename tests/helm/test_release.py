"""A release of the chart over its life; and for each check of the chart a broken copy that it catches."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError  # type: ignore[import-untyped]  # ships no types

from tests.helm import test_chart
from tests.helm.test_chart import CHART, PROFILES, ROOT, one, render, run, tool

EARLIER = Path(__file__).with_name("earlier.values.yaml")
REUSED = "--reset-then-reuse-values"


def copy(folder: Path, *edits: tuple[str, str, str]) -> Path:
    """A copy of the chart in which something is said otherwise: edits of a file, a text in it, and another."""
    chart = shutil.copytree(CHART, folder / "lorecall")
    for name, old, new in edits:
        text = (chart / name).read_text(encoding="utf-8")
        assert old in text
        (chart / name).write_text(text.replace(old, new), encoding="utf-8")
    return chart


def check_a_cluster_that_is_too_old_is_refused(helm: Path) -> None:
    """The chart needs what Kubernetes has since 1.27."""
    command = (helm, "template", "r", test_chart.CHART, "--kube-version")
    assert "kubeVersion" in run(*command, "1.20.2").stderr
    assert run(*command, "1.27.0").returncode == 0


def check_the_servers_volume_outlives_the_release(helm: Path) -> None:
    """An uninstall keeps the adapters' bytes; the audit service's volume, with texts of open audits, goes."""
    manifests = render(helm, PROFILES["all"])
    kept, gone = (
        one(manifests, "PersistentVolumeClaim", name) for name in ("r-lorecall", "r-lorecall-audit")
    )
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "annotations" not in gone["metadata"]


def check_only_the_migration_runs_before_a_release(helm: Path) -> None:
    """It is the one hook, needs nothing that the release makes, and is away afterwards."""
    manifests = render(helm, PROFILES["all"])
    (job,) = [each for each in manifests if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    assert (job["kind"], job["metadata"]["name"]) == ("Job", "r-lorecall-migrate")
    policy = job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert policy == "before-hook-creation,hook-succeeded"
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    assert [volume for volume in pod["volumes"] if "emptyDir" not in volume] == []


def check_environments_are_strings_given_once(helm: Path) -> None:
    """Also without the schema: an API server refuses a number, and helm 4's apply a name that is there twice."""
    command = (helm, "template", "r", test_chart.CHART, "--skip-schema-validation", "--set-json")
    for value, named in {
        '[{"name":"THREADS","value":4}]': "THREADS is no string",
        '[{"name":"THREADS","value":0}]': "THREADS is no string",
        '[{"name":"A","value":"1"},{"name":"A","value":"2"}]': "A is there twice",
        '[{"name":"HOME","value":"/root"}]': "HOME is there twice",
    }.items():
        assert named in run(*command, f"server.extraEnv={value}").stderr
    assert run(*command, 'server.extraEnv=[{"name":"THREADS","value":"4"}]').returncode == 0


def check_earlier_values_are_refused_by_name(helm: Path) -> None:
    """With `--reuse-values` a release keeps its old chart's defaults: what these lack is named."""
    old = yaml.safe_load(EARLIER.read_text(encoding="utf-8"))
    new = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    done = run(
        helm,
        "template",
        "r",
        test_chart.CHART,
        "--set",
        ",".join(f"{name}=null" for name in new.keys() - old),
    )
    assert done.returncode != 0
    for name in new.keys() - old:
        assert name in done.stderr


CHECKS = {
    name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_the_release(check: Any, helm: str) -> None:
    """What holds of a release over its life, with each helm."""
    check(tool(helm))


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_an_upgrade_takes_what_an_earlier_release_had_set(helm: str) -> None:
    """The whole of an earlier chart's values, as somebody keeps them in a file, renders to what it did."""
    manifests = render(tool(helm), EARLIER)
    plain = render(tool(helm), PROFILES["cpu"])
    assert {(each["kind"], each["metadata"]["name"]) for each in manifests} == {
        (each["kind"], each["metadata"]["name"]) for each in plain
    }
    server = one(manifests, "Deployment")["spec"]
    assert (server["replicas"], server["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.parametrize("page", ["deploy.md", "replicas.md"])
def test_upgrades_are_described_with_the_flag_that_works(page: str) -> None:
    """Each command that keeps a release's values takes the new chart's defaults, too."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.startswith("helm upgrade") and "reuse" in line]
    assert commands
    assert all(REUSED in line for line in commands)


SERVER, AUDIT, HELPERS = (f"templates/{name}" for name in ("deployment.yaml", "audit.yaml", "_helpers.tpl"))
MIGRATION, VOLUME = "templates/migration.yaml", "templates/persistentvolumeclaim.yaml"
BROKEN: dict[str, tuple[Any, tuple[str, str, str]]] = {
    "a port that no socket has": (
        partial(test_chart.test_every_port_names_its_protocol, profile="cpu"),
        (SERVER, "containerPort: 8000", "containerPort: 80000"),
    ),
    "a schema that lets such a port pass": (
        partial(test_chart.test_a_bad_value_is_refused_by_name, value="service.port=70000", named="port"),
        ("values.schema.json", '"maximum": 65535', '"maximum": 99999'),
    ),
    "a port without its protocol": (
        partial(test_chart.test_every_port_names_its_protocol, profile="all"),
        (AUDIT, "targetPort: http, protocol: TCP}", "targetPort: http}"),
    ),
    "no hooks": (
        test_chart.test_the_registry_is_migrated_before_the_pods_that_use_it,
        (MIGRATION, "helm.sh/hook: pre-install,pre-upgrade", "note: none"),
    ),
    "a hook that stays": (
        check_only_the_migration_runs_before_a_release,
        (MIGRATION, "before-hook-creation,hook-succeeded", "before-hook-creation"),
    ),
    "a mounted token for the API": (
        test_chart.test_every_container_runs_without_privileges,
        (AUDIT, "automountServiceAccountToken: false", "automountServiceAccountToken: true"),
    ),
    "a root that can be written": (
        test_chart.test_every_container_runs_without_privileges,
        (HELPERS, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    ),
    "a volume that is not kept": (
        check_the_servers_volume_outlives_the_release,
        (VOLUME, "helm.sh/resource-policy: keep", "note: gone"),
    ),
    "an unknown field": (
        partial(test_chart.test_every_manifest_is_what_kubernetes_accepts, profile="all"),
        (AUDIT, "  replicas: 1", "  replica: 1"),
    ),
    "a Service in front of every pod": (
        partial(test_chart.test_a_service_selects_its_own_pod_and_no_other, name="r-lorecall"),
        ("templates/service.yaml", "\n    app.kubernetes.io/component: server\n  ports", "\n  ports"),
    ),
    "a probe of a route that needs a key": (
        partial(test_chart.test_every_serving_container_has_its_probes, profile="cpu"),
        (SERVER, "path: /health", "path: /v1/models"),
    ),
    "any cluster": (
        check_a_cluster_that_is_too_old_is_refused,
        ("Chart.yaml", 'kubeVersion: ">=1.27.0-0"', 'kubeVersion: ">=1.19.0-0"'),
    ),
    "numbers in environments": (
        check_environments_are_strings_given_once,
        (HELPERS, '(kindIs "string" .value)', "true"),
    ),
    "names twice in environments": (
        check_environments_are_strings_given_once,
        (HELPERS, "hasKey $seen .name", "false"),
    ),
    "values that may be missing": (
        check_earlier_values_are_refused_by_name,
        ("values.schema.json", '    "autoscaling",\n', ""),
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_chart_is_caught(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check passes on the chart, and fails on a copy that differs in what it is for."""
    check, edit = BROKEN[fault]
    helm = tool("helm3")
    check(helm=helm)
    monkeypatch.setattr(test_chart, "CHART", copy(tmp_path, edit))
    with pytest.raises((AssertionError, KeyError, ValidationError)):
        check(helm=helm)
