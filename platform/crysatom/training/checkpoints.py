"""Checkpoints: safetensors and JSON, so that loading one cannot run code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STATE = "state.json"
"""Written last, in one step."""

FILES = "files"
"""Entry of the state: the size of each file that belongs to it."""


def is_complete(folder: Path) -> bool:
    """Tell whether the folder holds a whole checkpoint: a state, and every file it lists at its full size."""
    try:
        sizes = json.loads((folder / STATE).read_text())[FILES]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def newest(folder: Path) -> Path | None:
    """Return the whole checkpoint that is farthest among a folder's subfolders; None if there is none."""
    whole = [path for path in folder.iterdir() if is_complete(path)] if folder.is_dir() else []
    return max(whole, key=progress, default=None)


def remove_old(folder: Path, keep: int) -> None:
    """Remove all checkpoints in a folder but those that are farthest; what cannot be read counts as the oldest."""
    found = sorted((path for path in folder.iterdir() if (path / STATE).is_file()), key=progress)
    for old in found[:-keep]:
        shutil.rmtree(old)


def progress(folder: Path) -> tuple[int, int]:
    """Return how many steps a checkpoint has behind it, and how many whole epochs."""
    try:
        state = json.loads((folder / STATE).read_text())
        return int(state["step"]), int(state["epoch"])
    except (OSError, ValueError, KeyError):
        return -1, -1


def save(folder: Path, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write one ``<group>.safetensors`` per group of tensors, then the state."""
    sizes = {}
    for name, tensors in groups.items():
        file = folder / f"{name}.safetensors"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, file)
        sizes[file.name] = file.stat().st_size
    partial = folder / f".{STATE}.partial"
    partial.write_text(json.dumps({**state, FILES: sizes}, indent=1))
    partial.replace(folder / STATE)


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return what :func:`save` was given.

    Raises:
        ValueError: If the folder is no whole checkpoint.

    """
    if not is_complete(folder):
        raise ValueError(f"{folder} is not a whole checkpoint; give the folder of a finished epoch")
    state = json.loads((folder / STATE).read_text())
    groups = {Path(name).stem: load_file(folder / name) for name in state.pop(FILES)}
    return groups, state


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
