"""The manifests hold what Kubernetes and KubeRay know, agree with each other and with the lock, and have no secret in them."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

import raymtl
from tests.helpers import kuberay_schemas
from tests.helpers.command_lines import ROOT

CLUSTER = ROOT / "cluster"
MANIFESTS = sorted(CLUSTER.glob("*.yaml"))
OBJECTS = [
    pytest.param(value, id=f"{path.stem}-{value['kind']}")
    for path in MANIFESTS
    for value in yaml.safe_load_all(path.read_text())
    if "kind" in value
]
RAY = [one for one in OBJECTS if one.values[0]["kind"].startswith("Ray")]
needs_crds = pytest.mark.skipif(
    not kuberay_schemas.FOLDER.is_dir(), reason="the CRDs of KubeRay are not beside the checkout"
)


def _object(file: str, kind: str) -> dict[str, Any]:
    (found,) = (one for one in yaml.safe_load_all((CLUSTER / file).read_text()) if one["kind"] == kind)
    return found


def _all(value: Any, key: str) -> list[Any]:
    if isinstance(value, dict):
        return ([value[key]] if key in value else []) + [x for inner in value.values() for x in _all(inner, key)]
    return [x for inner in value for x in _all(inner, key)] if isinstance(value, list) else []


@needs_crds
@pytest.mark.parametrize("value", RAY)
def test_ray_objects_fit_their_schema(value: dict[str, Any]) -> None:
    assert kuberay_schemas.problems(value, kuberay_schemas.schema(value["kind"])) == []


@needs_crds
def test_other_objects_fit_the_same_schemas_where_these_have_them() -> None:
    pods = _object("cronjob-daily.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    assert kuberay_schemas.problems(pods, kuberay_schemas.schema("RayJob", "spec", "submitterPodTemplate")) == []
    rules = _object("networkpolicy.yaml", "NetworkPolicy")["spec"]["ingress"]
    assert (
        kuberay_schemas.problems(
            rules, kuberay_schemas.schema("RayJob", "spec", "rayClusterSpec", "networkPolicy", "head", "ingressRules")
        )
        == []
    )


@needs_crds
def test_fields_that_would_be_dropped_are_found() -> None:
    wrong = _object("raycronjob-daily.yaml", "RayCronJob")
    wrong["spec"]["concurrencyPolicy"] = "Forbid"
    head = wrong["spec"]["jobTemplate"]["rayClusterSpec"]["headGroupSpec"]
    head["template"]["spec"]["containers"][0]["resource"] = {}
    head["rayStartParams"]["num-cpus"] = 0
    found = "\n".join(kuberay_schemas.problems(wrong, kuberay_schemas.schema("RayCronJob")))
    assert "spec.concurrencyPolicy: there is no such field" in found
    assert "headGroupSpec.template.spec.containers[0].resource: there is no such field" in found
    assert "rayStartParams.num-cpus: 0 is not of type 'string'" in found


@pytest.mark.parametrize("value", RAY)
def test_versions_are_those_of_the_lock(value: dict[str, Any]) -> None:
    lock = (ROOT / "requirements" / "cpu.txt").read_text()
    assert {f"ray=={version}" for version in _all(value, "rayVersion")} <= set(lock.splitlines())
    images = set(_all(value, "image"))
    assert len(images) == 1
    assert images <= {f"registry.example.com/raymtl:{raymtl.__version__}{end}" for end in ("", "-gpu")}


@pytest.mark.parametrize("value", RAY)
def test_clusters_are_closed_and_of_a_fixed_size(value: dict[str, Any]) -> None:
    for options in _all(value, "authOptions"):
        assert options["mode"] == "token"
    (groups,) = _all(value, "workerGroupSpecs")
    for group in groups:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    pods = [*_all(value, "template"), *_all(value, "submitterPodTemplate")]
    allowed = {"ray", "client"}
    for pod in pods:
        assert pod["metadata"]["labels"]["raymtl.io/role"] in allowed
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert all(not one["securityContext"]["allowPrivilegeEscalation"] for one in pod["spec"]["containers"])


@pytest.mark.parametrize("value", RAY)
def test_prometheus_finds_every_ray_pod(value: dict[str, Any]) -> None:
    monitor = _object("podmonitor.yaml", "PodMonitor")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    pods = [pod for pod in _all(value, "template") if pod["spec"]["containers"][0]["name"].startswith("ray-")]
    assert len(pods) == 1 + len(_all(value, "workerGroupSpecs")[0])
    for pod in pods:
        assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        assert ports[endpoint["port"]] == 8080
    rules = _object("networkpolicy.yaml", "NetworkPolicy")["spec"]["ingress"]
    assert {"protocol": "TCP", "port": 8080} in [port for rule in rules for port in rule.get("ports", [])]


def test_one_days_job_and_kuberays_own_schedule_are_the_same_job() -> None:
    one_day = _object("rayjob-daily.yaml", "RayJob")
    template = _object("raycronjob-daily.yaml", "RayCronJob")["spec"]["jobTemplate"]
    entrypoint = one_day["spec"]["entrypoint"].replace(" --date 2026-01-31", "")
    assert template == {**one_day["spec"], "entrypoint": entrypoint}
    assert one_day["metadata"]["name"] == "raymtl-daily-2026-01-31"
    cluster = _object("raycluster.yaml", "RayCluster")["spec"]
    assert (
        cluster == one_day["spec"]["rayClusterSpec"] == _object("rayjob-train.yaml", "RayJob")["spec"]["rayClusterSpec"]
    )
    assert cluster == _object("rayjob-score.yaml", "RayJob")["spec"]["rayClusterSpec"]


def test_workers_of_the_entrypoint_are_those_of_the_cluster() -> None:
    for file in ("rayjob-daily.yaml", "rayjob-train.yaml", "rayjob-train-gpu.yaml", "rayjob-score.yaml"):
        spec = _object(file, "RayJob")["spec"]
        assert f"--workers {spec['rayClusterSpec']['workerGroupSpecs'][0]['replicas']}" in spec["entrypoint"]


JOBS = [file.name for file in MANIFESTS if file.name.startswith("rayjob-")]


def _number(quantity: Any) -> float:
    """Kubernetes' quantities, as far as the manifests use them."""
    value, unit = re.fullmatch(r"(\d+)(m|Mi|Gi)?", str(quantity)).groups()
    return int(value) * {None: 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def _requested(spec: dict[str, Any], resource: str) -> float:
    """What Kueue reserves for a RayJob: its head, all workers and the submitter."""
    cluster = spec["rayClusterSpec"]
    pods = [(1, spec["submitterPodTemplate"]), (1, cluster["headGroupSpec"]["template"])]
    pods += [(group["replicas"], group["template"]) for group in cluster["workerGroupSpecs"]]
    return sum(
        count
        * _number(container["resources"]["requests"].get(resource, container["resources"]["limits"].get(resource, 0)))
        for count, pod in pods
        for container in pod["spec"]["containers"]
    )


@pytest.mark.parametrize("file", JOBS)
def test_kueue_can_admit_every_job(file: str) -> None:
    job, queue = _object(file, "RayJob"), _object("kueue.yaml", "LocalQueue")
    labels, spec = job["metadata"]["labels"], job["spec"]
    assert labels["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    of_cluster = _object("kueue.yaml", "ClusterQueue")
    assert queue["spec"]["clusterQueue"] == of_cluster["metadata"]["name"]
    (group,) = of_cluster["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert flavor["name"] == _object("kueue.yaml", "ResourceFlavor")["metadata"]["name"]
    assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]
    for resource in flavor["resources"]:
        assert 0 <= _requested(spec, resource["name"]) <= _number(resource["nominalQuota"])
    # Kueue takes no others, and suspends and resumes the job itself: without Kueue, `suspend` would keep it from starting
    assert spec["shutdownAfterJobFinishes"]
    assert not {"clusterSelector", "suspend"} & set(spec)
    assert not spec["rayClusterSpec"].get("enableInTreeAutoscaling")
    assert len(spec["rayClusterSpec"]["workerGroupSpecs"]) <= 7


def test_the_daily_job_goes_before_trainings_and_these_before_searches() -> None:
    classes = {
        one["metadata"]["name"]: one["value"]
        for one in yaml.safe_load_all((CLUSTER / "kueue.yaml").read_text())
        if one["kind"] == "WorkloadPriorityClass"
    }
    names = {file: _object(file, "RayJob")["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] for file in JOBS}
    assert set(names.values()) == set(classes)
    order = [classes[names[f"rayjob-{name}.yaml"]] for name in ("daily", "score", "train", "train-gpu", "tune")]
    assert order[0] == order[1] > order[2] == order[3] > order[4]


def test_gpus_train_and_other_nodes_read() -> None:
    cluster = _object("raycluster-gpu.yaml", "RayCluster")["spec"]
    train, tune = (_object(f"rayjob-{name}.yaml", "RayJob")["spec"] for name in ("train-gpu", "tune"))
    assert cluster == train["rayClusterSpec"] == tune["rayClusterSpec"]
    gpus = {
        group["labels"]["raymtl.io/part"]: group["replicas"]
        * sum(
            int(one["resources"]["limits"].get("nvidia.com/gpu", 0)) for one in group["template"]["spec"]["containers"]
        )
        for group in cluster["workerGroupSpecs"]
    }
    assert gpus == {"train": 4, "read": 0}
    for spec in (train, tune):
        assert spec["entrypoint"].endswith(" --gpu")
        assert (spec["shutdownAfterJobFinishes"], spec["backoffLimit"]) == (True, 2)
    assert f"--max-concurrent {gpus['train']} " in tune["entrypoint"]


def test_the_night_ends_before_the_day_does() -> None:
    spec = _object("cronjob-daily.yaml", "CronJob")["spec"]
    minute, hour, *rest = spec["schedule"].split()
    assert (rest, spec["timeZone"]) == (["*", "*", "*"], "Etc/UTC")
    assert spec["concurrencyPolicy"] == "Forbid"
    job = spec["jobTemplate"]["spec"]
    begun = int(hour) * 3600 + int(minute) * 60
    assert begun + spec["startingDeadlineSeconds"] + job["activeDeadlineSeconds"] < 86400
    # the last try may begin when the script has nearly given up
    give_up = int(re.search(r"GIVE_UP_SECONDS:-(\d+)", (CLUSTER / "start-daily.sh").read_text())[1])
    assert (
        give_up + _object("rayjob-daily.yaml", "RayJob")["spec"]["activeDeadlineSeconds"] < job["activeDeadlineSeconds"]
    )


def test_the_cronjobs_pod_may_do_what_its_script_does() -> None:
    (rule,) = _object("cronjob-daily.yaml", "Role")["rules"]
    script = (CLUSTER / "start-daily.sh").read_text()
    assert set(rule["verbs"]) == set(re.findall(r"\bkubectl (\w+) (?:-f|rayjob)", script))
    assert rule["resources"] == ["rayjobs"]
    job = _object("cronjob-daily.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert set(re.findall(r"JOB_\w+", script)) == {one["name"] for one in pod["containers"][0]["env"]} - {"HOME"}
    ignore, fail = job["podFailurePolicy"]["rules"]
    assert (ignore["action"], fail["action"], pod["restartPolicy"]) == ("Ignore", "FailJob", "Never")
    # killed from outside (137, 143) is none of them
    assert fail["onExitCodes"]["values"] == [1, 2, 64, 65, 66, 69, 70, 71, 74, 75, 130]


def test_what_is_applied_together_exists() -> None:
    together = yaml.safe_load((CLUSTER / "kustomization.yaml").read_text())
    (generated,) = together["configMapGenerator"]
    for name in [*together["resources"], *generated["files"]]:
        assert (CLUSTER / name).is_file()
    pod = _object("cronjob-daily.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert generated["name"] in [one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one]


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("ray-up-*.yaml")), ids=lambda path: path.stem)
def test_ray_up_files_are_accepted_by_rays_launcher(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    jsonschema.validate(config, json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text()))
    full = prepare_config(config)
    validate_config(full)
    assert f":{raymtl.__version__}" in config["docker"]["image"]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    workers = [kind for kind in full["available_node_types"].values() if kind["max_workers"]]
    assert [kind["min_workers"] for kind in workers] == [config["max_workers"]]


@pytest.mark.parametrize(
    "path", [one for one in sorted(CLUSTER.iterdir()) if one.is_file()], ids=lambda path: path.name
)
def test_no_secret_and_no_registry_stands_in_a_file(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|eyJ[\w-]{20,}|\b[0-9a-f]{40,}\b", text)
    assert set(re.findall(r"\b([\w.-]+\.[\w.-]+)/raymtl:", text)) <= {"registry.example.com"}
    if path.suffix != ".yaml":
        return
    for value in yaml.safe_load_all(text):
        assert value.get("kind") != "Secret"
        for variables in _all(value, "env"):
            for one in variables:
                if re.search("KEY|TOKEN|SECRET|PASSWORD", one["name"]):
                    assert set(one) == {"name", "valueFrom"}
        for option in (value.get("docker") or {}).get("run_options", []):
            assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD)=", option)


def test_the_image_is_built_from_what_is_there() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    context = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [
        name for line in lines if line.startswith("COPY") and "--from" not in line for name in line.split()[1:-1]
    ]
    assert sources
    for name in sources:
        assert (ROOT / name).exists()
        assert f"!{name}" in context
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    assert all("requirements/" in line or line.endswith(" .") for line in lines if "pip install" in line)
