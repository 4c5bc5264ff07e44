"""Checkpoints: safetensors and JSON, so that loading one cannot run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STATE = "state.json"
"""Written last: a folder with it is whole."""


def is_complete(folder: Path) -> bool:
    """Tell whether the folder holds a whole checkpoint."""
    return (folder / STATE).exists()


def newest(folder: Path) -> Path | None:
    """Return the whole checkpoint of the latest epoch among a folder's subfolders; None if there is none."""
    whole = [path for path in folder.iterdir() if is_complete(path)] if folder.is_dir() else []
    return max(whole, key=_epoch, default=None)


def _epoch(folder: Path) -> int:
    return int(json.loads((folder / STATE).read_text())["epoch"])


def save(folder: Path, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write one ``<group>.safetensors`` per group of tensors, then the state."""
    for name, tensors in groups.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    (folder / STATE).write_text(json.dumps(state, indent=1))


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return what :func:`save` was given.

    Raises:
        ValueError: If the folder is no whole checkpoint.

    """
    if not is_complete(folder):
        msg = f"{folder} is not a checkpoint (it has no {STATE}); give the folder of a finished epoch"
        raise ValueError(msg)
    groups = {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    return groups, json.loads((folder / STATE).read_text())


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state, ``<parameter>/<entry>`` by the parameter's name in the model."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Restore what :func:`optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        like = parameter if value.shape == parameter.shape else value
        optimizer.state[parameter][key] = value.to(like.device)
