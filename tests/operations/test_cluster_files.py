"""The files for clusters, checked without a cloud: the launcher's, KubeRay's, the image and the list of what stays."""

import copy
import json
import re
import shlex
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path
from zipfile import ZipFile

import jsonschema
import pytest
import yaml
from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.event_summarizer import EventSummarizer
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.node_launcher import BaseNodeLauncher
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.autoscaler._private.util import ConcurrentCounter, prepare_config, validate_config, with_envs
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import STATUS_UP_TO_DATE, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs/cluster"
LAUNCHERS = {"aws": ROOT / "cluster.yaml", "gcp": FOLDER / "gcp.yaml"}
MANIFESTS = {"cluster": FOLDER / "kuberay-cluster.yaml", "job": FOLDER / "kuberay-job.yaml"}
SCORER = "spot_first.score"
TWINS = {"cpu_spot": "cpu_on_demand", "gpu_spot": "gpu_on_demand"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(params=LAUNCHERS)
def launcher(request):
    """What `ray up` makes of a launcher's file."""
    return prepare_config(yaml.safe_load(LAUNCHERS[request.param].read_text()))


@pytest.fixture(params=MANIFESTS)
def manifests(request):
    """The documents of a KubeRay file."""
    return documents(MANIFESTS[request.param])


@pytest.fixture
def on_the_head(monkeypatch):
    """What the head's start command puts on Python's path."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def spot_first(monkeypatch, on_the_head):
    """What the head's start command tells the autoscaler."""
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", SCORER)


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def workers(launcher: dict) -> dict[str, dict]:
    return {name: one for name, one in launcher["available_node_types"].items() if name != launcher["head_node_type"]}


def ray_cluster(manifests: list[dict]) -> dict:
    """The spec of the Ray cluster in a KubeRay file."""
    spec = next(one["spec"] for one in manifests if one["kind"].startswith("Ray"))
    return spec.get("rayClusterSpec", spec)


def pods(manifests: list[dict]) -> list[dict]:
    """The specs of all pods in a KubeRay file."""
    cluster = ray_cluster(manifests)
    templates = [one["template"] for one in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    templates += [one["spec"]["submitterPodTemplate"] for one in manifests if one["kind"] == "RayJob"]
    return [template["spec"] for template in templates]


def started(command: str, home: Path) -> dict[str, str]:
    """The environment that a start command gives to `ray`; its words are in ARGS."""
    stand_in = home / "venv/bin/ray"
    stand_in.parent.mkdir(parents=True, exist_ok=True)
    stand_in.write_text('#!/bin/sh\nARGS="$*" env -0\n')
    stand_in.chmod(0o755)
    (home / ".mmgenre.env").write_text("TMDB_TOKEN=of-the-operator\n")
    environment = {"HOME": str(home), "PATH": f"{stand_in.parent}:/usr/bin:/bin"}
    done = subprocess.run(["/bin/bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def start_commands(launcher: dict) -> dict[str, str]:
    """By kind of node, as `ray up` runs them."""
    head, worker = (
        [c for c in launcher[f"{kind}_start_ray_commands"] if "ray start" in c] for kind in ("head", "worker")
    )
    assert len(head) == len(worker) == 1
    return {
        "head": with_envs(head, {"RAY_enable_autoscaler_v2": "1"})[0],
        "worker": with_envs(worker, {"RAY_HEAD_IP": "10.0.0.1"})[0],
    }


def test_ray_takes_the_launchers_files(launcher):
    validate_config(launcher)


def test_ray_refuses_a_launchers_file_with_a_misspelt_field(launcher):
    launcher["available_node_types"]["cpu_spot"]["max_worker"] = 3

    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(launcher)


@pytest.mark.process
def test_every_command_of_the_launchers_is_shell(launcher):
    commands = [command for field, lines in launcher.items() if field.endswith("_commands") for command in lines]

    assert len(commands) > 10
    for command in commands:
        subprocess.run(["/bin/bash", "-n", "-c", command], check=True)


@pytest.mark.process
def test_every_node_starts_with_token_authentication_and_the_operators_keys(launcher, tmp_path):
    for command in start_commands(launcher).values():
        environment = started(command, tmp_path)

        assert environment["ARGS"].startswith("start ")
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["TMDB_TOKEN"] == "of-the-operator"  # noqa: S105
    assert launcher["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105
    assert launcher["file_mounts"]["~/.mmgenre.env"] == "~/.mmgenre.env"
    assert "chmod 600 ~/.mmgenre.env ~/.ray/auth_token" in launcher["setup_commands"]


def test_the_dashboard_listens_on_loopback_and_no_port_is_opened_for_it(launcher, tmp_path):
    words = started(start_commands(launcher)["head"], tmp_path)["ARGS"].split()

    assert [word for word in words if word.startswith("--dashboard-host")] == ["--dashboard-host=127.0.0.1"]
    assert "IpPermissions" not in launcher["provider"].get("security_group", {})


def test_the_head_offers_no_cpu(launcher):
    head = launcher["available_node_types"][launcher["head_node_type"]]

    assert (head["resources"], head["max_workers"]) == ({"CPU": 0}, 0)


def test_every_worker_type_is_capped_and_goes_when_idle(launcher):
    assert launcher["max_workers"] == 8
    assert 0 < launcher["idle_timeout_minutes"] <= 30
    assert {name: one["min_workers"] for name, one in workers(launcher).items()} == dict.fromkeys(workers(launcher), 0)
    assert all(0 < one["max_workers"] <= launcher["max_workers"] for one in workers(launcher).values())
    assert launcher["provider"]["cache_stopped_nodes"] is False


def test_every_spot_type_has_an_on_demand_twin(launcher):
    def market(node: dict) -> str | None:
        options, scheduling = node.get("InstanceMarketOptions", {}), node.get("scheduling", {})
        return options.get("MarketType") or scheduling.get("provisioningModel")

    types = workers(launcher)
    assert set(types) == {*TWINS, *TWINS.values()}
    for spot, on_demand in TWINS.items():
        nodes = [dict(types[name]["node_config"]) for name in (spot, on_demand)]
        assert (str(market(nodes[0])).lower(), market(nodes[1])) == ("spot", None)
        for node in nodes:
            node.pop("InstanceMarketOptions", None)
            node.pop("scheduling", None)
        assert nodes[0] == nodes[1]
        assert types[spot]["resources"] == types[on_demand]["resources"]
        assert types[spot]["max_workers"] == types[on_demand]["max_workers"]


class Cloud:
    """Runs a head, and refuses some types of nodes."""

    def __init__(self, refused: set[str]):
        self.refused = refused

    def create_node_with_resources_and_labels(self, node_config, tags, *_):
        if tags[TAG_RAY_USER_NODE_TYPE] in self.refused:
            raise NodeLaunchException("InsufficientInstanceCapacity", "no spot capacity", None)
        return {}

    def node_tags(self, node_id):
        return {TAG_RAY_USER_NODE_TYPE: node_id, TAG_RAY_NODE_KIND: node_id, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}

    def internal_ip(self, node_id):
        return node_id


class Autoscaler:
    """The parts of Ray's autoscaler v1 that choose node types, launch nodes and keep account of refusals."""

    def __init__(self, launcher: dict, refused: set[str]):
        self.later_s = 0.0
        self._config = launcher
        self._pending = ConcurrentCounter()
        self._account = NodeProviderAvailabilityTracker(timer=lambda: time.time() + self.later_s)
        types, cloud = launcher["available_node_types"], Cloud(refused)
        self._launcher = BaseNodeLauncher(
            cloud, self._pending, EventSummarizer(), self._account, node_types=types, session_name="test"
        )
        self.scheduler = ResourceDemandScheduler(
            cloud, types, launcher["max_workers"], launcher["head_node_type"], upscaling_speed=1
        )

    def asks_for(self, *demands: dict) -> dict[str, int]:
        """The nodes it launches for tasks and actors that have none, by type; a launch may be refused."""
        chosen, _ = self.scheduler.get_nodes_to_launch(
            nodes=["head"],
            launching_nodes={},
            resource_demands=list(demands),
            unused_resources_by_ip={},
            pending_placement_groups=[],
            max_resources_by_ip={},
            ensure_min_cluster_size=[],
            node_availability_summary=self._account.summary(),
        )
        for node_type, count in chosen.items():
            self._pending.inc(node_type, count)
            self._launcher.launch_node(self._config, count, node_type)
        return dict(chosen)


@pytest.mark.parametrize("spot", TWINS)
def test_where_the_cloud_has_no_spot_node_its_twin_is_launched_and_later_spot_is_tried_again(
    launcher, spot_first, spot
):
    autoscaler = Autoscaler(launcher, refused=set(TWINS))
    demand = {"CPU": 1} | ({"GPU": 1} if spot == "gpu_spot" else {})

    assert autoscaler.asks_for(demand) == {spot: 1}
    assert autoscaler.asks_for(demand) == {TWINS[spot]: 1}
    autoscaler.later_s = 31 * 60
    assert autoscaler.asks_for(demand) == {spot: 1}


def test_ray_alone_would_ask_for_the_refused_node_again(launcher):
    autoscaler = Autoscaler(launcher, refused=set(TWINS))

    assert [autoscaler.asks_for({"CPU": 1}) for _ in range(2)] == [{"cpu_spot": 1}] * 2


def test_spot_comes_first_though_ray_has_learned_its_memory(launcher, spot_first):
    autoscaler = Autoscaler(launcher, refused=set())
    autoscaler.scheduler.node_types["cpu_spot"]["resources"]["memory"] = 30 * 2**30

    assert autoscaler.asks_for(*[{"CPU": 1}] * 8) == {"cpu_spot": 1}


def test_memory_that_is_asked_for_counts(launcher, spot_first):
    autoscaler = Autoscaler(launcher, refused=set())
    autoscaler.scheduler.node_types["cpu_on_demand"]["resources"]["memory"] = 30 * 2**30

    assert autoscaler.asks_for({"CPU": 1, "memory": 2**30}) == {"cpu_on_demand": 1}


def test_the_head_starts_the_autoscaler_that_asks_spot_first(launcher, tmp_path):
    environment = started(start_commands(launcher)["head"], tmp_path)

    mounted = Path(environment["PYTHONPATH"]).relative_to(tmp_path / "mmgenre")
    assert ROOT / mounted == FOLDER
    assert launcher["file_mounts"]["~/mmgenre/configs"] == "configs"
    assert environment["RAY_AUTOSCALER_UTILIZATION_SCORER"] == SCORER
    assert environment["RAY_enable_autoscaler_v2"] == "0"


def test_rays_newer_autoscaler_keeps_no_account_of_refused_launches():
    account = CloudResourceMonitor()

    account.notify([InstanceUpdateEvent(new_instance_status=Instance.ALLOCATION_FAILED, instance_type="cpu_spot")])

    assert account.get_recoverable_resource_availabilities() == {}


def test_what_google_refuses_is_told_to_the_autoscaler(on_the_head, monkeypatch):
    class Refusing:
        def create_node(self, base_config, tags, count):
            raise Exception({"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED"}]})

    rays = types.ModuleType("ray.autoscaler._private.gcp.node_provider")
    rays.GCPNodeProvider = Refusing
    monkeypatch.setitem(sys.modules, rays.__name__, rays)
    monkeypatch.delitem(sys.modules, "gcp_nodes", raising=False)
    provider = yaml.safe_load(LAUNCHERS["gcp"].read_text())["provider"]

    with pytest.raises(NodeLaunchException, match="ZONE_RESOURCE_POOL_EXHAUSTED"):
        load_function_or_class(provider["module"])().create_node({}, {}, 1)
    sys.modules.pop("gcp_nodes")


def test_setup_installs_the_project_with_its_constraints(launcher):
    installs = [command for command in launcher["head_setup_commands"] if "venv/bin/pip install" in command]

    assert len(installs) == 2
    assert all("--constraint ~/mmgenre/constraints.txt" in command for command in installs)
    assert installs[0].split()[-1] == '"$HOME/mmgenre[all]"'
    assert any("3.11" in command for command in launcher["setup_commands"])


def test_what_is_mounted_is_there_and_is_what_the_package_is_built_of(launcher):
    own = {remote: local for remote, local in launcher["file_mounts"].items() if remote.startswith("~/mmgenre/")}

    assert all(remote == f"~/mmgenre/{local}" and (ROOT / local).exists() for remote, local in own.items())
    assert {"mmgenre", "configs", "jobs", "pyproject.toml", "constraints.txt"} <= set(own.values())
    # Ray reads all that is mounted, whatever is excluded.
    assert not {".", "runs", ".venv", ".git"} & set(own.values())


def test_disks_on_aws_are_encrypted_and_hold_torch_and_metadata_is_asked_for_with_a_token():
    for one in yaml.safe_load(LAUNCHERS["aws"].read_text())["available_node_types"].values():
        disk = one["node_config"]["BlockDeviceMappings"][0]["Ebs"]
        assert disk["Encrypted"]
        assert disk["VolumeSize"] >= 100
        assert one["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_no_file_holds_a_secret():
    files = [ROOT / name for name in ("cluster.yaml", "Dockerfile", ".dockerignore", ".rayignore")]
    files += [path for path in FOLDER.iterdir() if path.is_file()]
    literal = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|eyJ[\w-]{20}|(?i:token|key|password|secret)\w*[\"']?\s*[=:]\s*[\"']?[\w+/-]{20,}"
    )

    assert {"gcp.yaml", "kuberay-job.yaml", "spot_first.py"} <= {path.name for path in files}
    assert {path.name: literal.findall(path.read_text()) for path in files} == {path.name: [] for path in files}


def validate_manifest(document: dict) -> None:
    jsonschema.validate(document, json.loads((ROOT / "tests/operations/kuberay/schema.json").read_text()))


def test_kuberay_knows_every_field_of_the_manifests(manifests):
    for document in manifests:
        validate_manifest(document)


CLUSTER, HEAD = ("rayClusterSpec",), ("rayClusterSpec", "headGroupSpec")
WORKER = ("rayClusterSpec", "workerGroupSpecs", 1)
POD = (*WORKER, "template", "spec")


@pytest.mark.parametrize(
    "path",
    [
        ("backoffLimit",),
        ("ttlSecondsAfterFinished",),
        (*CLUSTER, "authOptions"),
        (*CLUSTER, "authOptions", "mode"),
        (*CLUSTER, "enableInTreeAutoscaling"),
        (*CLUSTER, "autoscalerOptions", "idleTimeoutSeconds"),
        (*HEAD, "rayStartParams"),
        (*HEAD, "template", "spec", "containers", 0, "envFrom"),
        (*WORKER, "maxReplicas"),
        (*POD, "tolerations"),
        (*POD, "tolerations", 0, "effect"),
        (*POD, "securityContext", "runAsNonRoot"),
        (*POD, "affinity", "nodeAffinity"),
        (*POD, "containers", 0, "resources", "limits"),
        (*POD, "containers", 0, "securityContext", "allowPrivilegeEscalation"),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_misspelt_field_of_a_manifest_is_refused(path):
    (broken,) = copy.deepcopy(documents(MANIFESTS["job"]))
    *parents, last = path
    level = broken["spec"]
    for parent in parents:
        level = level[parent]
    level[f"{last}s"] = level.pop(last)

    with pytest.raises(jsonschema.ValidationError):
        validate_manifest(broken)


@pytest.mark.parametrize(
    ("field", "value"),
    [("redisAdress", "redis:6379"), ("redisPassword", "in the clear"), ("backend", "memory")],
)
def test_a_wrong_redis_of_a_manifest_is_refused(field, value):
    broken = copy.deepcopy(documents(MANIFESTS["cluster"])[-1])
    broken["spec"]["gcsFaultToleranceOptions"][field] = value

    with pytest.raises(jsonschema.ValidationError):
        validate_manifest(broken)


def test_rays_autoscaler_reads_the_groups_as_they_are_meant(manifests):
    cluster = {"metadata": {"name": "mmgenre", "namespace": "default"}, "spec": ray_cluster(manifests)}

    config = _derive_autoscaling_config_from_ray_cr(cluster)

    groups = {
        name: (one["resources"]["CPU"], one["resources"].get("GPU", 0), one["min_workers"], one["max_workers"])
        for name, one in config["available_node_types"].items()
    }
    assert groups == {"headgroup": (0, 0, 0, 0), "cpu": (8, 0, 0, 6), "gpu": (8, 1, 0, 2)}
    assert config["idle_timeout_minutes"] == 10


def test_a_kuberay_cluster_wants_the_token_and_is_reached_from_inside_only(manifests):
    cluster = ray_cluster(manifests)

    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["enableIngress"] is False


def test_pods_ask_for_what_they_may_use_and_are_not_root(manifests):
    for pod in pods(manifests):
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    autoscaler = ray_cluster(manifests)["autoscalerOptions"]
    assert autoscaler["resources"]["requests"] == autoscaler["resources"]["limits"]


def test_workers_prefer_spot_nodes_and_the_head_avoids_them(manifests):
    def terms(pod: dict, how: str) -> set[tuple[str, str]]:
        found = pod["affinity"]["nodeAffinity"].get(f"{how}DuringSchedulingIgnoredDuringExecution", [])
        listed = found["nodeSelectorTerms"] if isinstance(found, dict) else [one["preference"] for one in found]
        return {(one["key"], one["operator"]) for term in listed for one in term["matchExpressions"]}

    cluster = ray_cluster(manifests)
    head, *others = (one["template"]["spec"] for one in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))

    for worker in others:
        assert {key for key, operator in terms(worker, "preferred") if operator == "In"}
        assert not terms(worker, "required")
        avoided = {key for key, operator in terms(head, "required") if operator == "NotIn"}
        assert avoided == {key for key, _ in terms(worker, "preferred")}


def test_gpu_pods_get_a_gpu_and_bear_its_taint(manifests):
    gpu = next(one for one in ray_cluster(manifests)["workerGroupSpecs"] if one["groupName"] == "gpu")["template"][
        "spec"
    ]

    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in gpu["tolerations"]


def test_keys_come_from_secrets(manifests):
    cluster = ray_cluster(manifests)

    for one in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        container = one["template"]["spec"]["containers"][0]
        assert container["envFrom"] == [{"secretRef": {"name": "mmgenre-keys"}}]
        assert "env" not in container
    redis = cluster.get("gcsFaultToleranceOptions")
    assert redis is None or set(redis["redisPassword"]) == {"valueFrom"}


def test_the_claim_that_the_cluster_mounts_is_one_that_many_nodes_write():
    claim, cluster = documents(MANIFESTS["cluster"])

    mounted = {pod["volumes"][0]["persistentVolumeClaim"]["claimName"] for pod in pods([cluster])}
    assert mounted == {claim["metadata"]["name"]}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_kuberay_job_is_a_real_one_that_a_new_cluster_can_go_on_with():
    from mmgenre.config import parse_args
    from mmgenre.pipeline.dump import BulkConfig
    from mmgenre.tagging.job import TagConfig

    (job,) = documents(MANIFESTS["job"])
    home = re.search(r"^WORKDIR (.+)$", DOCKERFILE, re.MULTILINE)[1]
    python, script, *words = shlex.split(job["spec"]["entrypoint"].replace(f"{home}/", f"{ROOT}/"))

    config = parse_args([TagConfig, BulkConfig], words)

    assert (python, Path(script)) == ("python", ROOT / "jobs/tag.py")
    assert isinstance(config, BulkConfig)
    assert all(place.startswith("s3://") for place in (config.input, config.checkpoint, config.output))
    assert config.tag.actors
    assert config.posters.actors
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"]
    assert "runtimeEnvYAML" not in job["spec"]


def test_the_image_has_the_python_and_the_ray_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ray_version,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    (python,) = re.findall(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, re.MULTILINE)
    assert project["requires-python"] == f">={python}"
    installs = re.findall(r"pip install .+", DOCKERFILE)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in install for install in installs)
    assert {ray_cluster(documents(path))["rayVersion"] for path in MANIFESTS.values()} == {ray_version}
    images = {
        container["image"]
        for path in MANIFESTS.values()
        for pod in pods(documents(path))
        for container in pod["containers"]
    }
    assert images == {f"mmgenre:{project['version']}"}
    assert f"--tag mmgenre:{project['version']}" in DOCKERFILE


def test_the_image_does_not_run_as_root():
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    expected = [documents(path) for path in MANIFESTS.values()]

    assert user == ("1000", "1000")
    for manifests in expected:
        for pod in pods(manifests):
            assert (str(pod["securityContext"]["runAsUser"]), str(pod["securityContext"]["runAsGroup"])) == user


def is_dockerignored(name: str) -> bool:
    """As Docker decides it: of the patterns that a path or a folder above it matches, the last one counts."""
    ignored, above = False, [name, *(str(parent) for parent in Path(name).parents)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.+/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, path) for path in above if path != "."):
                ignored = not line.startswith("!")
    return ignored


def test_the_image_gets_what_it_copies_and_nothing_else():
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]

    assert {"pyproject.toml", "constraints.txt", "mmgenre", "configs", "jobs"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        inside = f"{name}/any.py" if (ROOT / name).is_dir() else name
        assert not is_dockerignored(inside), name
    for name in (".git/HEAD", ".venv/bin/python", "runs/a.parquet", "tests/a.py", ".env", "mmgenre/.env", "shared/a"):
        assert is_dockerignored(name), name
    assert is_dockerignored("mmgenre/__pycache__/a.pyc")


def uploaded(folder: Path, target: Path, *, gitignore: bool) -> set[str]:
    """What Ray packs of a job's working_dir."""
    create_package(str(folder), target, include_gitignore=gitignore)
    with ZipFile(target) as package:
        return set(package.namelist())


def test_a_jobs_upload_leaves_history_environment_runs_and_keys_behind(tmp_path):
    folder = tmp_path / "repository"
    kept = {"jobs/tag.py", "mmgenre/__init__.py", "mmgenre/models/text.py", "configs/tag/dump.yaml", "pyproject.toml"}
    left = {
        ".git/objects/ab/cd",
        ".venv/lib/python3.11/site-packages/torch/lib.so",
        "runs/first/part-0.parquet",
        "tests/test_tag.py",
        "mmgenre/__pycache__/tag.pyc",
        "mmgenre/models/__pycache__/text.pyc",
        ".pytest_cache/v/cache",
        "mmgenre.egg-info/PKG-INFO",
        ".env",
        "keys/cluster.env",
        "keys/auth_token",
        "build/lib/mmgenre/tag.py",
    }
    for name in kept | left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("content")
    (folder / ".rayignore").write_text((ROOT / ".rayignore").read_text())

    packed = uploaded(folder, tmp_path / "package.zip", gitignore=False)

    assert {name for name in packed if not name.endswith("/")} == {*kept, ".rayignore"}


def test_this_repository_is_small_enough_to_upload_and_whole(tmp_path):
    packed = uploaded(ROOT, tmp_path / "package.zip", gitignore=True)

    assert (tmp_path / "package.zip").stat().st_size < DASHBOARD_CLIENT_MAX_SIZE / 10
    assert {
        "jobs/tag.py",
        "mmgenre/tagging/job.py",
        "configs/tag/dump.yaml",
        "pyproject.toml",
        "constraints.txt",
    } <= packed
    assert not [name for name in packed if name.split("/")[0] in {".git", ".venv", "runs", "tests", "docs", "bench"}]
