"""The files in ``deploy/`` (Kubernetes, Slurm, a container), and that jobs fit on their nodes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from crysatom.cluster.resources import per_worker, slots
from crysatom.cluster.tune import room_for
from crysatom.config import DownstreamConfig, PretrainConfig, TuneConfig, parse
from crysatom.names import __version__
from tests.unit.test_cluster_file import CLOUD, ON_PREM, ROOT, read

DEPLOY = ROOT / "deploy"
KUBERAY, SLURM, DOCKERFILE = "deploy/kuberay.yaml", "deploy/slurm.sh", "deploy/Dockerfile"
JOBS = {"pretrain": PretrainConfig, "downstream": DownstreamConfig, "tune": TuneConfig}
Nodes = list[dict[str, float]]


# -- dependencies


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def constrained() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }


def test_nodes_get_the_dependencies_of_the_project() -> None:
    lines = [line for line in (DEPLOY / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "--constraint ../constraints.txt"
    wanted = [Requirement(item) for item in project()["dependencies"]]
    assert lines[1:] == [f"{r.name}[{','.join(sorted(r.extras))}]" if r.extras else r.name for r in wanted]


def test_every_dependency_of_a_dependency_is_constrained() -> None:
    """Those installed here; torch for GPUs needs more, which it pins itself."""
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    todo = [Requirement(item) for group in groups for item in group]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key in seen or key[0] == "crysatom":
                continue
            seen.add(key)
            try:
                needed = metadata.requires(requirement.name) or []
            except metadata.PackageNotFoundError:
                continue  # for another platform, or optional
            found = [Requirement(item) for item in needed]
            todo += [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]
    installed = {name for name, _ in seen if _is_installed(name)}
    assert len(installed) > 100, "the walk has come far"
    assert installed - constrained().keys() - {"setuptools", "pip"} == set()


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


# -- Kubernetes


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all((ROOT / KUBERAY).read_text())}


def groups(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = cluster["spec"]
    return {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}


def test_kuberay_has_the_workers_of_the_launcher(documents: dict[str, dict[str, Any]]) -> None:
    cluster, types = documents["RayCluster"], read(CLOUD)["available_node_types"]
    assert set(groups(cluster)) == set(types)
    assert groups(cluster)["head"]["rayStartParams"]["num-cpus"] == "0"
    for name, group in groups(cluster).items():
        for label in ("crysatom.dev/role", "crysatom.dev/gpu-memory"):
            assert group["labels"].get(label) == types[name]["labels"].get(label)
        if name != "head":
            assert (group["minReplicas"], group["maxReplicas"]) == (0, types[name]["max_workers"])
            pod = group["template"]["spec"]
            assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(types[name]["resources"]["GPU"])
            assert group["labels"]["crysatom.dev/gpu"] in pod["nodeSelector"]["nvidia.com/gpu.product"]


def test_kuberay_runs_the_tested_ray_and_this_version(documents: dict[str, dict[str, Any]]) -> None:
    cluster = documents["RayCluster"]
    assert cluster["apiVersion"] == "ray.io/v1"
    assert cluster["spec"]["rayVersion"] == constrained()["ray"]
    for group in groups(cluster).values():
        [container] = group["template"]["spec"]["containers"]
        assert container["image"].endswith(f"/crysatom:{__version__}"), "one image: one Python, one Ray"


def test_kuberay_pods_have_few_rights_and_the_shared_folder(documents: dict[str, dict[str, Any]]) -> None:
    for name, group in groups(documents["RayCluster"]).items():
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert name == "head" or pod["automountServiceAccountToken"] is False, "only the head scales the cluster"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        [mount], [volume] = container["volumeMounts"], pod["volumes"]
        assert mount["name"] == volume["name"]
        assert volume["persistentVolumeClaim"]["claimName"] == documents["PersistentVolumeClaim"]["metadata"]["name"]
        assert {"name": "CRYSATOM_HOME", "value": mount["mountPath"]} in container["env"]
    assert documents["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_kuberay_lets_nobody_in(documents: dict[str, dict[str, Any]]) -> None:
    cluster, policy = documents["RayCluster"], documents["NetworkPolicy"]
    spec = cluster["spec"]
    assert spec["authOptions"]["mode"] == "token"
    assert spec["authOptions"]["secretName"] in re.findall(r"secret generic (\S+)", (ROOT / KUBERAY).read_text())
    assert "Secret" not in documents, "a token in a file is none"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not spec["headGroupSpec"].get("enableIngress")
    pods = {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}
    assert policy["spec"]["podSelector"] == pods
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": pods}]}]


def closed(schema: Any) -> Any:
    """Return a Kubernetes schema that rejects unknown fields, as ``kubectl apply`` does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    schema = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        schema.setdefault("additionalProperties", False)
    return schema


def test_kuberay_file_is_one_by_the_operators_own_schema(documents: dict[str, dict[str, Any]], test_data: Path) -> None:
    file = test_data / "ray.io_rayclusters.yaml"
    if not file.is_file():
        pytest.skip("needs helm-chart/kuberay-operator/crds/ray.io_rayclusters.yaml of KubeRay in CRYSATOM_TEST_DATA")
    from jsonschema import Draft7Validator

    [version] = [v for v in yaml.load(file.read_bytes(), yaml.CSafeLoader)["spec"]["versions"] if v["name"] == "v1"]
    validator = Draft7Validator(closed(version["schema"]["openAPIV3Schema"]))
    cluster = json.loads(json.dumps(documents["RayCluster"]))  # anchors become copies
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(cluster)] == []
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["container"] = []
    assert len(list(validator.iter_errors(cluster))) == 1, "the check can fail"


# -- Slurm


def directives() -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", (ROOT / SLURM).read_text(), re.MULTILINE)
    return dict(lines)


@pytest.mark.parametrize("script", ["slurm.sh", "labels.sh"])
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / script)], check=True)
    assert (DEPLOY / script).stat().st_mode & 0o100


def test_slurm_has_one_ray_per_node_and_is_told_before_its_time_is_over() -> None:
    given = directives()
    assert given["ntasks-per-node"] == "1"
    assert "exclusive" in given
    assert "requeue" in given
    assert given["open-mode"] == "append"
    told = re.fullmatch(r"B:TERM@(\d+)", given["signal"])
    assert told is not None
    from crysatom.runs.stop import GRACE_S

    assert int(told[1]) > GRACE_S + 60, "the checkpoint, and then the end of Ray"


def test_slurm_says_what_it_lacks() -> None:
    command = ["bash", str(ROOT / SLURM)]
    without_home = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert without_home.returncode != 0
    assert "CRYSATOM_HOME: set it to a folder shared by all nodes" in without_home.stderr
    environment = {"PATH": "/usr/bin:/bin", "CRYSATOM_HOME": "/nowhere"}
    without_job = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert without_job.returncode == 2
    assert "give a command" in without_job.stderr


# -- the container


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (ROOT / DOCKERFILE).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_container_has_a_pinned_python_of_the_tested_minor_version() -> None:
    [base] = [rest for word, rest in instructions() if word == "FROM"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    assert f"# Versions the tests ran with (CPython {base[7:11]}" in (ROOT / "constraints.txt").read_text()


def test_container_installs_the_locked_dependencies_and_nothing_else() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and re.search(r"\b(pip|conda|uv|curl)\b", rest)]
    assert len(installs) == 1
    assert installs[0].startswith("pip install --no-cache-dir --requirement deploy/requirements.txt ")


def test_container_copies_what_is_there_and_lets_it_in() -> None:
    copied = {rest.split()[0] for word, rest in instructions() if word == "COPY"}
    assert {"constraints.txt", "deploy/requirements.txt", "platform", "jobs", "tune_spaces"} == copied
    assert all((ROOT / source).exists() for source in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_container_ends_without_root_and_holds_no_secret() -> None:
    words = [word for word, _ in instructions()]
    user = next(rest for word, rest in reversed(instructions()) if word == "USER")
    assert user.split(":")[0] not in {"root", "0"}
    assert words.index("USER") > max(i for i, word in enumerate(words) if word in {"RUN", "COPY"})
    assert "ADD" not in words, "it would fetch what nobody pinned"
    settings = " ".join(rest for word, rest in instructions() if word in {"ENV", "ARG"})
    assert not re.search(
        r"token(?!$|\s)|secret|password|_key", settings.replace("RAY_AUTH_MODE=token", ""), re.IGNORECASE
    )


def test_container_is_tagged_with_this_version() -> None:
    for file in (DOCKERFILE, KUBERAY):
        assert set(re.findall(r"crysatom:(\d[\d.]*)", (ROOT / file).read_text())) == {__version__}


# -- jobs fit


def nodes_of(file: str) -> Nodes:
    """Return the resources of each worker node of a full cluster."""
    if file == CLOUD:
        types = read(CLOUD)["available_node_types"].values()
        return [node["resources"] for node in types for _ in range(node["max_workers"])]
    if file == KUBERAY:
        [cluster] = [d for d in yaml.safe_load_all((ROOT / KUBERAY).read_text()) if d["kind"] == "RayCluster"]
        found = []
        for group in cluster["spec"]["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            found += [{"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}] * group["maxReplicas"]
        return found
    if file == SLURM:
        given = directives()
        node = {"CPU": float(given["cpus-per-task"]), "GPU": float(given["gpus-per-node"])}
        return [node] * int(given["nodes"])
    if file == ON_PREM:
        hosts = re.findall(r"^#   [\d.]+ +(\d+) CPUs, (\d+) x ", (ROOT / ON_PREM).read_text(), re.MULTILINE)
        return [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in hosts]
    raise AssertionError(file)


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Return the jobs in the comments of a file, as name and flags."""
    comments = re.sub(r"\\\n#", " ", "\n".join(line for line in text.splitlines() if line.startswith("#")))
    found = re.findall(r"python jobs/(\w+)\.py([^\n#]*)", comments)
    return [(name, shlex.split(flags)) for name, flags in found if name in JOBS]


def fits(config: Any, nodes: Nodes) -> bool:
    if isinstance(config, TuneConfig):
        return room_for(config.workers, nodes) >= 1
    return slots(per_worker(config.workers), nodes) >= config.workers.most


@pytest.mark.parametrize("file", [CLOUD, ON_PREM, KUBERAY, SLURM])
def test_jobs_that_a_file_names_fit_on_its_machines(file: str) -> None:
    named = commands_of((ROOT / file).read_text())
    assert named
    for name, flags in named:
        config = parse(JOBS[name], flags)
        assert config.workers.use_gpu, "it is a cluster of GPUs"
        assert fits(config, nodes_of(file)), f"{file}: {name} {' '.join(flags)}"


@pytest.mark.parametrize("use_gpu", [False, True])
@pytest.mark.parametrize("job", sorted(JOBS))
@pytest.mark.parametrize("file", [CLOUD, ON_PREM, KUBERAY, SLURM])
def test_defaults_of_jobs_fit_on_one_machine_of_each(file: str, job: str, use_gpu: bool) -> None:
    flags = [*(["--space", "ssl_loss"] if job == "tune" else []), *(["--use-gpu"] if use_gpu else [])]
    config = parse(JOBS[job], flags)
    assert all(fits(config, [node]) for node in nodes_of(file))


def test_a_job_that_is_too_large_is_seen() -> None:
    total = int(sum(node["GPU"] for node in nodes_of(CLOUD)))
    flags = ["--use-gpu", "--batch-size", "512"]
    assert fits(parse(PretrainConfig, [*flags, "--num-workers", str(total)]), nodes_of(CLOUD))
    assert not fits(parse(PretrainConfig, [*flags, "--num-workers", f"1:{total + 1}"]), nodes_of(CLOUD))
    assert not fits(parse(PretrainConfig, ["--threads-per-worker", "97"]), nodes_of(CLOUD)), "no machine has so many"
