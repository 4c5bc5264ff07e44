"""Checkpoints in safetensors and JSON, so that loading cannot run code, with checksums that detect damage."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from crysatom.config.checks import require_name
from crysatom.training.full_disk import is_full, room
from crysatom.writing import replaced_folder, write_bytes, write_text

logger = logging.getLogger(__name__)

STATE = "state.json"
"""File that is written last, atomically: it marks a complete checkpoint."""

FILES = "files"
"""Key in the state: size and sha256 of each file. Older checkpoints have the size only."""

CHECKSUM = "sha256"
"""Key of a file's checksum, and of the state's own, which covers its other entries."""


def problem(folder: Path) -> str:
    """Return why a checkpoint is incomplete or damaged; empty if every file is as it was written."""
    try:
        _read(folder)
    except ValueError as error:
        return str(error)
    return ""


def newest(folder: Path) -> Path | None:
    """Return the complete checkpoint with the most steps among a folder's subfolders; None if there is none.

    Each damaged checkpoint is logged as a warning, once per process.
    """
    candidates = _candidates(folder)
    problems = {path: problem(path) for path in candidates}
    found = max((path for path in candidates if not problems[path]), key=progress, default=None)
    instead = "training starts with the first epoch" if found is None else f"{found.name} is used"
    for path in candidates:
        if problems[path]:
            _warn_once(f"checkpoint {path} is damaged: {problems[path]}; {instead}")
    return found


def progress(folder: Path) -> tuple[int, int]:
    """Return the number of steps and of completed epochs in a checkpoint; -1 if it cannot be read."""
    try:
        state = _state(folder)
        return int(state["step"]), int(state["epoch"])
    except (ValueError, KeyError, TypeError):
        return -1, -1


def save(folder: Path, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write one ``<group>.safetensors`` per group of tensors, then the state. All is on disk when this returns."""
    from safetensors.torch import save as serialize  # here and below: the loop must be importable without it

    files = {}
    for name, tensors in groups.items():
        content = serialize({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        file = folder / f"{name}.safetensors"
        write_bytes(file, content)  # synced before it returns, so a full disk raises here
        files[file.name] = {"size": len(content), CHECKSUM: hashlib.sha256(content).hexdigest()}
    entries = {**state, FILES: files}
    write_text(folder / STATE, json.dumps({**entries, CHECKSUM: _checksum(entries)}, indent=1))


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the groups and the state that :func:`save` wrote.

    Raises:
        ValueError: If the folder is not a complete checkpoint.

    """
    try:
        return _read(folder)
    except ValueError as error:
        raise ValueError(
            f"{folder} is not a complete checkpoint: {error}; give the folder of a finished epoch"
        ) from error


def keep(folder: Path, name: str, write: Callable[[Path], None], number: int = 2) -> bool:
    """Write a checkpoint atomically and remove older ones; log a warning and continue if the disk is full.

    On a full disk, older checkpoints are removed first, never the newest one; if that is not enough, none is written.

    Args:
        folder: Folder of all checkpoints.
        name: Name of the new one.
        write: Writes the checkpoint into the folder that it is given.
        number: Checkpoints to keep.

    Returns:
        Whether it was written.

    Raises:
        OSError: If writing fails for another reason than a full disk.

    """
    final = folder / name
    try:
        try:
            _publish(final, write)
        except OSError as error:
            if not (is_full(error) and _make_room(folder)):
                raise
            _publish(final, write)
    except OSError as error:
        if not is_full(error):
            raise
        logger.warning(
            "%s: checkpoint %s could not be written (%s). Training continues; if it is interrupted before there "
            "is room, it resumes from the last checkpoint",
            error.strerror,
            final,
            room(folder),
        )
        return False
    reached = progress(final)
    others = sorted((path for path in _candidates(folder) if path != final), key=progress)
    # A checkpoint with more steps than this one is damaged; otherwise the training would have resumed from it.
    past, ahead = ([path for path in others if (progress(path) > reached) is is_ahead] for is_ahead in (False, True))
    for old in [*past[: max(0, len(past) + 1 - number)], *ahead]:
        shutil.rmtree(old)
    return True


def _publish(final: Path, write: Callable[[Path], None]) -> None:
    with replaced_folder(final) as partial:
        write(partial)


def _make_room(folder: Path) -> bool:
    """Remove all checkpoints except the newest complete one; return whether there were any."""
    kept = newest(folder)
    others = [path for path in _candidates(folder) if path != kept]
    for path in others:
        shutil.rmtree(path)
    return bool(others)


def _candidates(folder: Path) -> list[Path]:
    """Return the folders of checkpoints. Those being written are hidden."""
    there = folder.iterdir() if folder.is_dir() else []
    return sorted(path for path in there if path.is_dir() and not path.name.startswith("."))


def _read(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return groups and state as they were saved.

    Raises:
        ValueError: If a file is not as it was written; the message names it.

    """
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    state = _state(folder)
    if any(isinstance(noted, int) for noted in state[FILES].values()):
        _log_once(f"checkpoint {folder} has no checksums, because an older version wrote it: only sizes are checked")
    groups = {}
    for name, noted in state.pop(FILES).items():
        require_name(f"a file in {STATE}", name)
        content = _content(folder, name)
        written = {"size": noted} if isinstance(noted, int) else noted
        if len(content) != written["size"]:
            raise ValueError(f"{name} has {len(content):,} bytes of {written['size']:,}")
        if written.get(CHECKSUM, "") not in {"", hashlib.sha256(content).hexdigest()}:
            raise ValueError(f"the content of {name} has changed since it was written (its sha256 differs)")
        try:
            groups[Path(name).stem] = parse(content)
        except SafetensorError as error:
            raise ValueError(f"{name} is broken: {shorten(str(error), 300)}") from error
    return groups, state


def _state(folder: Path) -> dict[str, Any]:
    """Return the state with its list of files, without its own checksum."""
    content = _content(folder, STATE)
    try:
        state: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{STATE} is broken: {error}") from error
    files = state.get(FILES) if isinstance(state, dict) else None
    if not isinstance(files, dict) or not all(map(_is_noted, files.values())):
        raise ValueError(f"{STATE} is broken: it does not list its files")
    written, old = state.pop(CHECKSUM, ""), all(isinstance(noted, int) for noted in files.values())
    if written != _checksum(state) and (written or not old):
        raise ValueError(f"the content of {STATE} has changed since it was written (its sha256 differs)")
    return dict(state)


def _is_noted(file: Any) -> bool:
    """Return whether an entry has what is needed to check a file."""
    complete = isinstance(file, dict) and isinstance(file.get("size"), int) and isinstance(file.get(CHECKSUM), str)
    return complete or isinstance(file, int)


def _content(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from error


def _checksum(entries: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


_warn_once = functools.cache(logger.warning)
_log_once = functools.cache(logger.info)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state, ``<parameter>/<entry>`` by the parameter's name in the model."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Restore the state that :func:`optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        like = parameter if value.shape == parameter.shape else value
        optimizer.state[parameter][key] = value.to(like.device)
