"""Files of the cluster launcher, validated as by the launcher before it contacts a cloud or a host."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLOUD, ON_PREM = "ray_cluster.yaml", "deploy/on_prem.yaml"


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / name).read_text()))


def check(cluster: dict[str, Any]) -> dict[str, Any]:
    """Fill in the launcher's defaults and validate, as ``ray up`` does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return dict(prepared)


@pytest.mark.parametrize("name", [CLOUD, ON_PREM])
def test_the_launcher_accepts_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = check(read(name))
    for node in ("head", "worker"):
        assert "ray start" in " ".join(prepared[f"{node}_start_ray_commands"])


def test_the_check_can_fail() -> None:
    cluster = read(CLOUD)
    cluster["available_node_types"]["a100"]["resources"]["GPU"] = 0.5
    with pytest.raises(Exception, match=r"0\.5"):
        check(cluster)


def test_types_of_nodes() -> None:
    cluster = read(CLOUD)
    types = cluster["available_node_types"]
    assert set(types) == {"head", "a100", "a6000"}
    assert types["head"]["resources"] == {"CPU": 0}, "training on the head would slow all drivers down"
    for name, memory in (("a100", "80GB"), ("a6000", "48GB")):
        assert types[name]["labels"]["crysatom.dev/gpu-memory"] == memory
        assert types[name]["labels"]["crysatom.dev/role"] == name
        assert types[name]["labels"]["crysatom.dev/gpu"]
        assert types[name]["resources"]["GPU"] >= 1
        assert types[name]["min_workers"] == 0, "an idle cluster costs nothing but its head"
    assert sum(node["max_workers"] for node in types.values()) <= cluster["max_workers"]


def test_images_hold_the_tested_ray() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    docker = read(CLOUD)["docker"]
    for image in (docker["image"], docker["worker_image"]):
        assert image.startswith(f"rayproject/ray:{constraints['ray']}-py311-")


@pytest.mark.parametrize("name", [CLOUD, ON_PREM])
def test_head_and_workers_install_the_locked_dependencies(name: str) -> None:
    cluster = read(name)
    mounted = {Path(there): ROOT / here for there, here in cluster["file_mounts"].items() if not here.startswith("~")}
    assert all(here.is_file() for here in mounted.values())
    requirements = next(there for there, here in mounted.items() if here.name == "requirements.txt")
    assert mounted[requirements.parents[1] / "constraints.txt"] == ROOT / "constraints.txt", "it is named relatively"
    for node in ("head", "worker"):
        commands = [*cluster.get("setup_commands", []), *cluster.get(f"{node}_setup_commands", [])]
        [install] = [command for command in commands if "pip install" in command]
        assert install.split("pip install ")[1].startswith(f"--requirement {requirements}")


@pytest.mark.parametrize("name", [CLOUD, ON_PREM])
def test_nodes_ask_for_the_token_and_the_dashboard_stays_inside(name: str) -> None:
    cluster = read(name)
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    shared = " ".join(cluster.get("docker", {}).get("run_options", []))
    for node in ("head", "worker"):
        started = f"{shared} {cluster[f'{node}_start_ray_commands'][-1]}"
        assert "RAY_AUTH_MODE=token" in started
        assert "CRYSATOM_HOME=/mnt/crysatom" in started
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_hosts_of_ones_own_are_the_ones_that_its_head_describes() -> None:
    provider = read(ON_PREM)["provider"]
    described = re.findall(r"^#   ([\d.]+)  ", (ROOT / ON_PREM).read_text(), re.MULTILINE)
    assert described == [provider["head_ip"], *provider["worker_ips"]]


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        ("NVIDIA A100-SXM4-80GB, 81920", "crysatom.dev/gpu=A100,crysatom.dev/gpu-memory=80GB"),
        ("NVIDIA A100 80GB PCIe, 81559", "crysatom.dev/gpu=A100,crysatom.dev/gpu-memory=80GB"),
        ("NVIDIA RTX A6000, 49140", "crysatom.dev/gpu=A6000,crysatom.dev/gpu-memory=48GB"),
        ("NVIDIA L40S, 46068", "crysatom.dev/gpu=L40S,crysatom.dev/gpu-memory=45GB"),
        (None, "crysatom.dev/gpu=none"),
    ],
)
def test_a_host_labels_itself_by_its_gpu(said: str | None, labels: str, tmp_path: Path) -> None:
    if said is not None:  # output of nvidia-smi, which is not installed here
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["bash", str(ROOT / "deploy" / "labels.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == labels
    from ray._private.label_utils import parse_node_labels_string

    assert parse_node_labels_string(done.stdout.strip())["crysatom.dev/gpu"], "Ray takes it"
