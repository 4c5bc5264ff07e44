"""The cluster launcher's file, checked as the launcher itself does before it touches a cloud."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "ray_cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text()))


def check(cluster: dict[str, Any]) -> dict[str, Any]:
    """Fill in the launcher's defaults and validate, as ``ray up`` does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return dict(prepared)


def test_the_launcher_accepts_it(cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = check(cluster)
    assert set(prepared["available_node_types"]) == {"head", "a100", "a6000"}
    assert all("ray start" in " ".join(prepared[f"{node}_start_ray_commands"]) for node in ("head", "worker"))


def test_the_check_can_fail(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["a100"]["resources"]["GPU"] = 0.5
    with pytest.raises(Exception, match=r"0\.5"):
        check(cluster)


def test_types_of_nodes(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}, "training on the head would slow all drivers down"
    for name, label in (("a100", "A100"), ("a6000", "A6000")):
        assert types[name]["labels"] == {"crysatom.dev/gpu": label}
        assert types[name]["resources"]["GPU"] >= 1
        assert types[name]["min_workers"] == 0, "an idle cluster costs nothing but its head"
    assert sum(node["max_workers"] for node in types.values()) <= cluster["max_workers"]


def test_images_hold_the_tested_ray(cluster: dict[str, Any]) -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for image in (cluster["docker"]["image"], cluster["docker"]["worker_image"]):
        assert image.startswith(f"rayproject/ray:{constraints['ray']}-py311-")


def test_all_that_a_job_imports_is_installed(cluster: dict[str, Any]) -> None:
    import re
    import tomllib

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=]", item)[0] for item in needed}
    installed = {re.split(r"\[", word.strip('"'))[0] for word in " ".join(cluster["setup_commands"]).split()}
    assert names <= installed
