"""The chart renders to what a cluster accepts, with real helm 3 and 4, and keeps its promises about safety.

The tools come from `make tools`; where one cannot be fetched, its tests are skipped by name.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from kubernetes_validate import validate  # type: ignore[import-untyped]  # ships no types
from lorecall.server.settings import PREFIX, ServerSettings

from tests.test_docs import complaint

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "lorecall"
TOOLS = ROOT / ".cache" / "tools"
GOLDEN = Path(__file__).parent / "golden"
PROFILES = {name: GOLDEN / f"{name}.values.yaml" for name in ("cpu", "gpu", "all", "fleet")}
CUSTOM = {"HTTPRoute", "InferencePool", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
FLEET = "server.replicas=2,registry.secret=r,settings.shared=s3://a"
FIXED_SETTINGS = {"LORECALL_STORE", "LORECALL_OPEN_METRICS"}
"""The chart says where the volume is, and that the NetworkPolicy guards the metrics."""
CACHES = {"XDG_CACHE_HOME", "TRITON_HOME", "TORCHINDUCTOR_CACHE_DIR"}
OWN_SETTINGS = {*FIXED_SETTINGS, "LORECALL_AUDIT_SPOOL"}
"""Settings without a value in the chart. The texts of the server's audits lie in its store."""


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


def one(manifests: list[dict[str, Any]], kind: str, name: str = "r-lorecall") -> dict[str, Any]:
    """Return the manifest of a kind and name."""
    (found,) = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and manifest["metadata"]["name"] == name
    ]
    return found


def pods(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return every pod's spec with its labels, by the name of what makes it."""
    return {
        manifest["metadata"]["name"]: {
            **manifest["spec"]["template"]["spec"],
            "labels": manifest["spec"]["template"]["metadata"]["labels"],
        }
        for manifest in manifests
        if manifest["kind"] in {"Deployment", "Job"}
    }


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Return whether a selector's labels are all there."""
    return selector.items() <= labels.items()


def test_the_chart_passes_strict_lint(helm: Path) -> None:
    """`helm lint --strict` finds nothing."""
    done = run(helm, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_every_manifest_is_what_kubernetes_accepts(helm: Path, profile: str) -> None:
    """Each built-in resource validates against Kubernetes' own schema, unknown fields refused."""
    manifests = render(helm, PROFILES[profile])
    kinds = {manifest["kind"] for manifest in manifests}
    assert {"Deployment", "Service", "ServiceAccount", "NetworkPolicy"} <= kinds
    assert ("PersistentVolumeClaim" in kinds) == (profile != "fleet")
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
    found = pods(render(helm, PROFILES["all"]))
    assert set(found) == {"r-lorecall", "r-lorecall-audit", "r-lorecall-migrate"}
    for pod in found.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("profile", PROFILES)
def test_every_serving_container_has_its_probes(helm: Path, profile: str) -> None:
    """Start, readiness and life are asked for on the route that answers without a key."""
    for manifest in render(helm, PROFILES[profile]):
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_every_command_of_a_container_exists(helm: Path) -> None:
    """Each container runs a command of ours with options that it has."""
    found = [pod for name in ("all", "fleet") for pod in pods(render(helm, PROFILES[name])).values()]
    assert len(found) == 5
    for pod in found:
        (container,) = pod["containers"]
        line = [*container["command"], *container.get("args", ())]
        assert line[0] == "lorecall"
        assert complaint(line[1:]) == ""


def test_kubernetes_sets_no_variable_with_our_prefix(helm: Path) -> None:
    """A Service named lorecall would set LORECALL_PORT, which the server refuses as an unknown setting."""
    for pod in pods(render(helm, PROFILES["all"])).values():
        assert pod["enableServiceLinks"] is False


def test_only_the_gpu_profile_asks_for_a_gpu(helm: Path) -> None:
    """The profile picks image and resources."""
    for profile, gpus in (("cpu", None), ("gpu", "1"), ("fleet", "2")):
        pod = one(render(helm, PROFILES[profile]), "Deployment")["spec"]["template"]["spec"]
        (server,) = pod["containers"]
        asked = {kind: found.get("nvidia.com/gpu") for kind, found in server["resources"].items()}
        assert asked == {"requests": gpus, "limits": gpus}
        assert "cpu" not in server["resources"]["limits"]
        assert server["image"].endswith("-cpu" if gpus is None else "-gpu")
        args = server["args"]
        split = [args[i + 1] for i, flag in enumerate(args) if flag == "--tensor-parallel-size"]
        assert split == ([gpus] if gpus == "2" else [])


@pytest.mark.parametrize("profile", PROFILES)
def test_a_pod_that_ends_drains(helm: Path, profile: str) -> None:
    """The routers' time to learn of it and the requests' time to finish fit into the grace period."""
    pod = one(render(helm, PROFILES[profile]), "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    sleep, waited = server["lifecycle"]["preStop"]["exec"]["command"]
    drain = int(server["args"][server["args"].index("--shutdown-timeout") + 1])
    assert sleep == "sleep"
    assert 0 < int(waited) + drain <= pod["terminationGracePeriodSeconds"]


def test_several_servers_are_spread_replaced_and_scaled_as_one(helm: Path) -> None:
    """Budget, spread, pool and scaler all speak of the server's pods, and each pod has a volume of its own."""
    manifests = render(helm, PROFILES["fleet"])
    deployment = one(manifests, "Deployment")["spec"]
    pod, labels = deployment["template"]["spec"], deployment["template"]["metadata"]["labels"]
    selectors = [
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(manifests, "InferencePool")["spec"]["selector"]["matchLabels"],
        pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(one == deployment["selector"]["matchLabels"] and selects(one, labels) for one in selectors)
    assert deployment["strategy"]["type"] == "RollingUpdate"
    assert "replicas" not in deployment  # the scaler's
    scaled = one(manifests, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"] == {"name": "r-lorecall"}
    promql_parser.parse(scaled["triggers"][0]["metadata"]["query"])
    (data,) = [volume for volume in pod["volumes"] if volume["name"] == "data"]
    assert data["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"] == {"requests": {"storage": "20Gi"}}
    (token,) = [one for one in pod["containers"][0]["env"] if one["name"] == "HF_TOKEN"]
    assert token["valueFrom"] == {"secretKeyRef": {"name": "lorecall-hub", "key": "token"}}
    ways = [
        port["port"] for rule in one(manifests, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]
    ]
    assert 9000 in ways
    single = one(render(helm, PROFILES["gpu"]), "Deployment")["spec"]
    assert (single["replicas"], single["strategy"]) == (1, {"type": "Recreate"})


def test_a_route_leads_to_the_pool_or_to_the_service(helm: Path) -> None:
    """With a pool its endpoint picker chooses the pod; a port of the pool is the container's."""
    manifests = render(helm, PROFILES["fleet"])
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    pool = one(manifests, "InferencePool")["spec"]
    assert pool["targetPorts"] == [{"number": port["containerPort"]} for port in container["ports"]]
    assert pool["endpointPickerRef"]["name"] == "llm-d-epp"
    (backend,) = one(manifests, "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert (backend["kind"], backend["name"]) == ("InferencePool", "r-lorecall")
    done = run(
        helm, "template", "r", CHART, "--set", "httpRoute.enabled=true,httpRoute.parentRefs[0].name=gateway"
    )
    (backend,) = one(list(yaml.safe_load_all(done.stdout)), "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert backend == {"name": "r-lorecall", "port": 8000}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_port_names_its_protocol(helm: Path, profile: str) -> None:
    """Server-side apply merges ports by number and protocol: one left out is a port twice."""
    manifests = render(helm, PROFILES[profile])
    ports = [
        port for manifest in manifests if manifest["kind"] == "Service" for port in manifest["spec"]["ports"]
    ]
    ports += [
        port
        for pod in pods(manifests).values()
        for part in pod["containers"]
        for port in part.get("ports", ())
    ]
    assert ports
    assert {port["protocol"] for port in ports} == {"TCP"}
    assert all(0 < port.get("port", port.get("containerPort")) < 1 << 16 for port in ports)


@pytest.mark.parametrize(("profile", "secret"), [("all", "lorecall-key"), ("cpu", "lorecall-api-key")])
def test_the_api_key_comes_from_the_secret(helm: Path, profile: str, secret: str) -> None:
    """The key is a reference, never a value in the manifest; no release is without one."""
    pod = one(render(helm, PROFILES[profile]), "Deployment")["spec"]["template"]["spec"]
    environ = pod["containers"][0]["env"]
    (key,) = [variable for variable in environ if variable["name"] == "LORECALL_ADMIN_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": secret, "key": "api-key"}}


@pytest.mark.parametrize("name", ["r-lorecall", "r-lorecall-audit"])
def test_a_service_selects_its_own_pod_and_no_other(helm: Path, name: str) -> None:
    """Traffic for the server never reaches the audit service, nor the other way; each Deployment owns its pod."""
    manifests = render(helm, PROFILES["all"])
    service, found = one(manifests, "Service", name), pods(manifests)
    selector = service["spec"]["selector"]
    assert [pod for pod, spec in found.items() if selects(selector, spec["labels"])] == [name]
    assert one(manifests, "Deployment", name)["spec"]["selector"]["matchLabels"] == selector
    port = service["spec"]["ports"][0]
    assert port["targetPort"] in {one["name"] for one in found[name]["containers"][0]["ports"]}


def test_policy_and_monitor_cover_every_pod(helm: Path) -> None:
    """No pod of the release is outside the NetworkPolicy; every Service is scraped at a port that it has."""
    manifests = render(helm, PROFILES["all"])
    policy = one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert all(selects(policy, pod["labels"]) for pod in pods(manifests).values())
    monitor = one(manifests, "ServiceMonitor")["spec"]
    services = [manifest for manifest in manifests if manifest["kind"] == "Service"]
    assert len(services) == 2
    for service in services:
        assert selects(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
        assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_the_policy_leaves_open_what_the_pods_need(helm: Path) -> None:
    """The audit service reaches the server though only others are named, and pods with a registry its port."""
    manifests = render(helm, PROFILES["all"])
    policy = one(manifests, "NetworkPolicy")["spec"]
    audit, server = (pods(manifests)[name]["labels"] for name in ("r-lorecall-audit", "r-lorecall"))
    peers = [peer["podSelector"] for peer in policy["ingress"][0]["from"] if "podSelector" in peer]
    assert any(selects(peer["matchLabels"], audit) for peer in peers)
    ways = [peer["podSelector"] for rule in policy["egress"] for peer in rule.get("to", ())]
    assert any(selects(way["matchLabels"], server) for way in ways)
    assert {"port": 5432, "protocol": "TCP"} in [port for rule in policy["egress"] for port in rule["ports"]]
    plain = one(render(helm, PROFILES["cpu"]), "NetworkPolicy")["spec"]["egress"]
    assert 5432 not in [port["port"] for rule in plain for port in rule["ports"]]


def test_the_registry_is_migrated_before_the_pods_that_use_it(helm: Path) -> None:
    """A hook before install and upgrade; every pod takes the URL, which holds a password, from one Secret."""
    manifests = render(helm, PROFILES["all"])
    job = one(manifests, "Job", "r-lorecall-migrate")
    hooks = job["metadata"]["annotations"]["helm.sh/hook"].split(",")
    assert hooks == ["pre-install", "pre-upgrade"]
    for pod in pods(manifests).values():
        (url,) = [one for one in pod["containers"][0]["env"] if one["name"] == "LORECALL_REGISTRY"]
        assert url["valueFrom"] == {"secretKeyRef": {"name": "lorecall-registry", "key": "url"}}
    kinds = {manifest["kind"] for manifest in render(helm, PROFILES["cpu"])}
    assert "Job" not in kinds  # SQLite is the server's own


def test_both_services_keep_the_same_limits(helm: Path) -> None:
    """Server and audit service take the bounds, and the Redis in which they count from one Secret."""
    manifests = render(helm, PROFILES["all"])
    for name in ("r-lorecall", "r-lorecall-audit"):
        environ = {one["name"]: one for one in pods(manifests)[name]["containers"][0]["env"]}
        assert environ["LORECALL_MAX_ITEMS"]["value"] == "512"
        assert environ["LORECALL_AUDIT_MAX_SNIPPETS"]["value"] == "5000000"
        secret = {"secretKeyRef": {"name": "lorecall-limits", "key": "url"}}
        assert environ["LORECALL_LIMITS_URL"]["valueFrom"] == secret
    ways = one(manifests, "NetworkPolicy")["spec"]["egress"]
    assert {"port": 6379, "protocol": "TCP"} in [port for way in ways for port in way["ports"]]
    plain = render(helm, PROFILES["cpu"])
    names = {one["name"] for one in pods(plain)["r-lorecall"]["containers"][0]["env"]}
    assert "LORECALL_LIMITS_URL" not in names
    ways = one(plain, "NetworkPolicy")["spec"]["egress"]
    assert 6379 not in [port["port"] for way in ways for port in way["ports"]]


def variables(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the environment of a pod's one container, by name; no name is there twice."""
    listed = pod["containers"][0]["env"]
    found = {one["name"]: one for one in listed}
    assert len(found) == len(listed)
    return found


def test_every_setting_can_be_set_or_is_the_charts_own(helm: Path) -> None:
    """Each of docs/settings.md, which is written from these fields: a new one is missed until it has a value."""
    settings = {PREFIX + name.upper() for name in ServerSettings.model_fields}
    all_set, none_set = (
        variables(pods(render(helm, PROFILES[profile]))["r-lorecall"]) for profile in ("all", "cpu")
    )
    assert settings - set(all_set) == OWN_SETTINGS - FIXED_SETTINGS
    assert {name for name in settings & set(all_set) if all_set[name] == none_set.get(name)} == FIXED_SETTINGS
    assert set(all_set) - settings == {"HOME", "HF_HOME", "HF_HUB_OFFLINE", *CACHES}
    assert all(all_set[name]["value"].startswith("/data/cache") for name in CACHES), "on the volume"


def test_a_setting_reaches_both_services_as_it_was_written(
    helm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large numbers, fractions, lists, objects: as the server reads them. Only its own pod has its folders."""
    given = yaml.safe_load(PROFILES["all"].read_text(encoding="utf-8"))["settings"]
    names = {re.sub("([A-Z])", r"_\1", name).lower(): value for name, value in given.items()}
    manifests = pods(render(helm, PROFILES["all"]))
    server, audit = (variables(manifests[name]) for name in ("r-lorecall", "r-lorecall-audit"))
    assert server.pop("LORECALL_LOCAL_ROOTS")["value"] == names.pop("local_roots")
    assert "LORECALL_LOCAL_ROOTS" not in audit
    for name in names:
        variable = PREFIX + name.upper()
        assert server[variable] == audit[variable]
        monkeypatch.setenv(variable, server[variable]["value"])
    read = ServerSettings()
    assert {name: getattr(read, name) for name in names} == names


def test_secrets_are_files_in_the_pods_that_read_them(helm: Path) -> None:
    """The signing key, the list of keys and the gate's snippets; each file that is named is there."""
    manifests = pods(render(helm, PROFILES["all"]))
    read = {"r-lorecall": {"keys", "signing", "gate"}, "r-lorecall-audit": {"keys", "signing"}}
    for name, folders in read.items():
        (container,) = manifests[name]["containers"]
        volumes = {one["name"]: one["secret"] for one in manifests[name]["volumes"] if "secret" in one}
        assert volumes == {one: {"secretName": f"lorecall-{one}", "defaultMode": 0o440} for one in folders}
        mounts = {one["mountPath"]: one for one in container["volumeMounts"] if one["name"] in folders}
        assert all(one["readOnly"] for one in mounts.values())
        paths = [
            Path(one["value"]) for one in container["env"] if "/etc/lorecall/" in str(one.get("value", ""))
        ]
        assert {str(path.parent) for path in paths} == set(mounts)
    for pod in pods(render(helm, PROFILES["cpu"])).values():
        assert not [one for one in pod["volumes"] if "secret" in one]


def test_the_rules_and_the_dashboards_reach_the_cluster_whole(helm: Path) -> None:
    """Braces of alert templates and of JSON survive rendering."""
    manifests = render(helm, PROFILES["all"])
    rules = yaml.safe_load((CHART / "rules" / "lorecall.yaml").read_text(encoding="utf-8"))
    assert one(manifests, "PrometheusRule")["spec"] == rules
    shipped = one(manifests, "ConfigMap", "r-lorecall-dashboards")["data"]
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
        ("audit.enabled=true", "secret"),
        ("registry.port=0", "port"),
        ("audit.storage=much", "storage"),
        ("limits.items=0", "items"),
        ("limits.auditSnippets=many", "auditSnippets"),
        ("limits.port=0", "port"),
        ("server.extraEnv[0].name=A,server.extraEnv[0].value=5", "extraEnv"),
        ("server.extraEnv[0].name=A,server.extraEnv[0].value=a,server.extraEnv[1].name=A", "extraEnv: A"),
        ("server.extraEnv[0].name=LORECALL_STORE,server.extraEnv[0].value=/x", "extraEnv: LORECALL_STORE"),
        ("server.extraEnv[0].name=A,server.extraEnv[1].name=A", "extraEnv"),
        ("audit.extraEnv[0].name=A,audit.extraEnv[0].value=true", "extraEnv"),
        ("server.tolerations[0].value=1", "tolerations"),
        ("audit.tolerations[0].value=1", "tolerations"),
        ("networkPolicy.allowFrom[0].podSelector.matchLabels.app=1", "app"),
        ("settings.nonsense=1", "nonsense"),
        ("settings.auditsDays=0", "auditsDays"),
        ("settings.adapters.acme=7", "acme"),
        ("settings.requireAudit=policy.yaml", "requireAudit"),
        ("gate.reauditStale=true", "secret"),
        ("gate.controls=true", "secret"),
        ("server.replicas=0", "replicas"),
        ("server.replicas=2", "secret"),
        ("server.replicas=2,registry.secret=r", "shared"),
        (
            "server.replicas=2,registry.secret=r,settings.shared=s3://a,persistence.existingClaim=c",
            "existingClaim",
        ),
        (f"{FLEET},autoscaling.enabled=true", "prometheus"),
        ("autoscaling.enabled=true,autoscaling.prometheus=http://p,registry.secret=r", "shared"),
        ("inferencePool.enabled=true", "name"),
        ("httpRoute.enabled=true", "parentRefs"),
        ("ingress.enabled=true", "host"),
        ("server.gpus=0", "gpus"),
        ("server.tensorParallelSize=2", "tensorParallelSize"),
        ("server.shutdownSeconds=55", "terminationGracePeriodSeconds"),
        ("networkPolicy.egressPorts[0]=0", "egressPorts"),
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


def test_the_endpoint_pickers_values_name_the_pods_of_a_release(helm: Path) -> None:
    """llm-d selects the servers of a release named lorecall, and no other pod; its plugins are all used."""
    values = yaml.safe_load((ROOT / "helm" / "routers" / "llm-d.values.yaml").read_text(encoding="utf-8"))[
        "router"
    ]
    labels = values["modelServers"]["matchLabels"]
    done = run(helm, "template", "lorecall", CHART, "--values", PROFILES["all"])
    found = pods([manifest for manifest in yaml.safe_load_all(done.stdout) if manifest])
    assert [name for name, pod in found.items() if selects(labels, pod["labels"])] == ["lorecall"]
    epp = values["epp"]
    config = yaml.safe_load(epp["pluginsCustomConfig"][epp["pluginsConfigFile"]])
    (profile,) = config["schedulingProfiles"]
    used = {one["pluginRef"] for one in profile["plugins"]} | {
        "metrics-data-source",
        "core-metrics-extractor",
    }
    assert {one["type"] for one in config["plugins"]} == used
