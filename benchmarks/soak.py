"""Soak test: does any process of a long pretraining grow, and are files or Ray objects left behind?

    python benchmarks/soak.py --data SHARDS --work FOLDER --minutes 47
    python benchmarks/soak.py     # rewrites the section of long_runs.md from results/soak.json

The job is ``jobs/pretrain.py --loader streamed --num-workers 2`` on a Ray of its own. At the end of the time it gets
SIGTERM, like from a batch system. Slopes and levels are written to ``results/soak.json``, the figure to ``soak.png``;
the samples are not kept.

A record of one day: ``make bench`` does not run this.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from compact import compact
from matplotlib.axes import Axes
from PIL import Image
from watching import Watched, contents, slope, watch

from crysatom.figures.style import BLUE, GRAY, ORANGE, PAGE_INCHES, clean, new_figure
from crysatom.text_tables import markdown
from crysatom.tracking.environment import environment_tags
from crysatom.training.machine import hardware

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "soak.json"
PICTURE = Path(__file__).parent / "soak.png"
PAGE = Path(__file__).parent / "long_runs.md"
BEGIN, END = "<!-- Written by benchmarks/soak.py: -->", "<!-- End of what it writes. -->"

Curves = dict[str, dict[str, list[float]]]
"""Medians and peaks of half minutes, by quantity."""

EPOCH = r"^epoch .* ([\d,]+) crystals/s"
"""Line that the job prints for an epoch."""

WARM_UP_MINUTES = 10.0
ALLOWED_MB, ALLOWED_COUNT = 5.0, 2.0
"""Growth per hour up to which memory (MB) and counts are flat; 2 % of the level, if that is more."""

COUNTS = {
    "objects": "Ray objects in the store",
    "references": "references to Ray objects",
    "object_mb": "MB in the store",
    "session_files": "files in Ray's session and the temporary folder",
    "shm_files": "files in /dev/shm",
    "out_files": "files of the run",
}


def soak(arguments: argparse.Namespace) -> tuple[dict[str, Any], Curves]:
    """Run the job and sample it; return the results and the curves of the figure."""
    folder: Path = arguments.work
    out = folder / "runs"
    command = [sys.executable, str(ROOT / "jobs" / "pretrain.py"), "--data", arguments.data, "--out", str(out)]
    command += ["--loader", "streamed", "--num-workers", str(arguments.num_workers), "--epochs", str(arguments.epochs)]
    command += ["--embedding-dim", str(arguments.dim), "--num-layers", str(arguments.layers), "--register", ""]
    command += ["--checkpoint-minutes", "1"]
    command += ["--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}", "--name", "soak"]
    shm = set(Path("/dev/shm").iterdir())  # noqa: S108 - this folder is measured
    seen = watch(
        command,
        folder,
        out=out,
        every=arguments.every,
        stop_after=60 * arguments.minutes,
    )
    warm_up = 60 * arguments.warm_up_minutes
    left, left_mb = contents(folder / "tmp")
    rates = [float(rate.replace(",", "")) for rate in re.findall(EPOCH, (folder / "job.log").read_text(), re.MULTILINE)]
    figures = {
        "command": shlex.join(["jobs/pretrain.py", *command[2:]]).replace(f"{folder}/", ""),
        "minutes": round(seen.seconds / 60, 1),
        "returncode": seen.returncode,
        "epochs": len(rates),
        "crystals_per_second": round(float(np.median(rates))),
        "warm_up_minutes": arguments.warm_up_minutes,
        "memory": memory_slopes(seen.processes, warm_up),
        "open_files": file_slopes(seen.processes, warm_up),
        "counts": count_slopes(seen.system, warm_up),
        "spilled_mb": float(seen.system["spilled_mb"].max()),
        "missed_samples": int(seen.system["missed"].notna().sum()) if "missed" in seen.system else 0,
        "samples": len(seen.system),
        "left": {
            "processes": seen.alive,
            "in_dev_shm": sorted(str(path) for path in set(Path("/dev/shm").iterdir()) - shm),  # noqa: S108
            "temporary_files": left,
            "temporary_mb": round(left_mb, 1),
            "temporary_files_by_folder": by_folder(folder / "tmp"),
        },
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment_tags(hardware()),
    }
    return figures, curves(seen)


def memory_slopes(processes: pd.DataFrame, warm_up: float) -> dict[str, dict[str, Any]]:
    """Return the growth of the private memory of each kind of process, and of all, in MB per hour."""
    private = by_time(processes, "private")
    private["all"] = private.sum(axis=1)
    return {str(kind): trend(private[kind], warm_up, ALLOWED_MB) for kind in private}


def file_slopes(processes: pd.DataFrame, warm_up: float) -> dict[str, Any]:
    """Return the growth of the number of open files of all processes, per hour."""
    return trend(by_time(processes, "files").sum(axis=1), warm_up, ALLOWED_COUNT)


def count_slopes(system: pd.DataFrame, warm_up: float) -> dict[str, dict[str, Any]]:
    """Return the growth of each count, per hour."""
    table = system.set_index("seconds")
    return {name: trend(table[name].dropna(), warm_up, ALLOWED_COUNT) for name in COUNTS}


def by_time(processes: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column as a table of samples by kinds of process; absent processes count as 0."""
    return processes.pivot_table(index="seconds", columns="kind", values=column, aggfunc="sum").fillna(0.0)


def trend(series: pd.Series, warm_up: float, allowed: float) -> dict[str, Any]:
    """Return slope, interval, level, peak and verdict of a quantity over time."""
    found = slope(series.index.to_numpy(float), series.to_numpy(float), warm_up=warm_up)
    rounded = {name: round(value, 2) for name, value in asdict(found).items()}
    return {**rounded, "peak": round(float(series.max()), 2), "verdict": found.verdict(allowed)}


def by_folder(folder: Path) -> dict[str, int]:
    """Return the number of files in each folder of Ray's session."""
    found: dict[str, int] = {}
    for path in folder.rglob("*"):
        if not path.is_dir():
            parts = path.relative_to(folder).parts
            name = parts[2] if len(parts) > 3 else "."
            found[name] = found.get(name, 0) + 1
    return found


def curves(seen: Watched, block: float = 30.0) -> Curves:
    """Return medians and peaks of half minutes: private memory by kind, open files, counts."""
    private, files = by_time(seen.processes, "private"), by_time(seen.processes, "files").sum(axis=1)
    table = pd.DataFrame({**{f"private/{kind}": private[kind] for kind in private}, "open_files": files})
    system = seen.system.set_index("seconds")
    table = table.join(system[[*COUNTS]], how="left")
    blocks = (table.index.to_numpy(float) // block).astype(int)
    groups = table.groupby(blocks)
    result: Curves = {"minutes": {"middle": [round((k + 0.5) * block / 60, 2) for k in np.unique(blocks).tolist()]}}
    for name in table:
        result[str(name)] = {
            "median": groups[str(name)].median().round(1).bfill().fillna(0).tolist(),
            "peak": groups[str(name)].max().round(1).bfill().fillna(0).tolist(),
        }
    return result


def draw(figures: dict[str, Any], lines: Curves, path: Path, shown: int = 6) -> None:
    """Draw the memory of every kind of process against time, and below it open files and Ray objects.

    Args:
        figures: Results of :func:`soak`.
        lines: Curves of :func:`curves`.
        path: PNG file to write.
        shown: Number of the largest kinds, drawn in the first panel; the second panel has a finer scale.

    """
    minutes = np.array(lines["minutes"]["middle"])
    kinds = {name.removeprefix("private/"): line for name, line in lines.items() if name.startswith("private/")}
    order = sorted(kinds, key=lambda kind: -float(np.median(kinds[kind]["median"])))
    figure = new_figure(PAGE_INCHES, 9.2)
    rows = figure.subplots(4, 1, sharex=True, height_ratios=[2.4, 4, 1.2, 1.2])
    for axes, group in zip(rows[:2], (order[:shown], order[shown:]), strict=True):
        for kind, color, style in zip(group, PALETTE, STYLES, strict=False):
            axes.plot(minutes, kinds[kind]["median"], color=color, linestyle=style, lw=1.3, label=named(figures, kind))
        axes.set_ylabel("Private memory (MB)", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=6.5, frameon=False, labelspacing=0.3, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _count(rows[2], minutes, lines["open_files"], "Open files", BLUE)
    _count(rows[3], minutes, lines["objects"], "Ray objects", ORANGE)
    for axes in rows:
        clean(axes)
        axes.axvspan(0, figures["warm_up_minutes"], color="#f2f2f2", lw=0, zorder=0)
    rows[0].set_title(
        f"{figures['minutes']:.0f} minutes of streamed pretraining, {figures['epochs']} epochs (gray: warm-up)",
        fontsize=9,
        loc="left",
    )
    rows[3].set_xlabel("Minutes", fontsize=9)
    rows[3].set_xlim(0, float(minutes[-1]))
    whole = io.BytesIO()
    figure.savefig(whole, dpi=100)
    Image.open(whole).convert("RGB").quantize(64).save(path, optimize=True)  # a quarter of the bytes


PALETTE = (
    BLUE,
    ORANGE,
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    GRAY,
    "#000000",
    "#882255",
    "#999933",
    "#44AA99",
) * 2
STYLES = ("-",) * 11 + ("--",) * 11


def named(figures: dict[str, Any], kind: str) -> str:
    """Return the legend of a kind: name and slope."""
    found = figures["memory"][kind]
    return f"{kind[0].upper()}{kind[1:]}\n{found['per_hour']:+.1f} MB/h [{found['low']:.1f}, {found['high']:.1f}]"


def _count(axes: Axes, minutes: np.ndarray, curve: dict[str, list[float]], label: str, color: str) -> None:
    axes.plot(minutes, curve["median"], color=color, lw=1.3, label="median of half a minute")
    axes.plot(minutes, curve["peak"], color=color, lw=0.7, alpha=0.5, label="peak of half a minute")
    axes.set_ylabel(label, fontsize=9)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=6.5, frameon=False, labelspacing=0.3, loc="center left", bbox_to_anchor=(1.0, 0.5))


def table(figures: dict[str, Any]) -> str:
    """Return the slopes as a Markdown table."""
    rows = {f"{kind} (MB)": found for kind, found in figures["memory"].items()}
    rows |= {"open files": figures["open_files"]}
    rows |= {COUNTS[name]: found for name, found in figures["counts"].items()}
    cells = [
        [
            name,
            *(f"{found[key]:,.0f}" for key in ("level", "peak")),
            f"{found['per_hour']:+.1f}",
            f"{found['low']:+.1f} to {found['high']:+.1f}",
            found["verdict"],
        ]
        for name, found in rows.items()
    ]
    return markdown(["", "level", "peak", "slope per hour", "95 % interval", ""], cells, "lrrrrl").rstrip()


def summary(figures: dict[str, Any]) -> str:
    """Return the section of the page about a soak."""
    made_by, left = figures["environment"], figures["left"]
    commit = made_by["mlflow.source.git.commit"]  # 40 digits, and "-dirty" if files differed from it
    versions = ", ".join(f"{name} {made_by[f'version.{name}']}" for name in ("python", "ray", "torch"))
    logs = left["temporary_files_by_folder"].get("logs", 0)
    return f"""\
{figures["date"]}; {made_by["hardware"]}; {versions}; commit {commit[:8]}{commit[40:]}.
{figures["minutes"]:.0f} minutes, {figures["epochs"]} epochs (median {figures["crystals_per_second"]} crystals/s),
{figures["samples"]} samples, {figures["missed_samples"]} of them without Ray's counts (during startup and shutdown);
{figures["spilled_mb"]:.0f} MB spilled. The slopes exclude the first {figures["warm_up_minutes"]:.0f} minutes.

![Memory of each kind of process, open files and Ray objects against time]({PICTURE.name})

{table(figures)}

Left after the end: {len(left["processes"])} processes; {len(left["in_dev_shm"])} new entries in /dev/shm (of any
program on the machine); {left["temporary_files"]} files ({left["temporary_mb"]} MB) in the temporary folder,
{logs} of them Ray's logs."""


def write_page(figures: dict[str, Any]) -> None:
    """Write the summary into the page, between the markers."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{summary(figures)}\n\n{END}{after}")


def main() -> None:
    """Run a soak, or write the page from the results of the last one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="folder of graph shards")
    parser.add_argument(
        "--work", type=Path, help="new folder for the run, its log and its temporary files; a short path"
    )
    parser.add_argument("--epochs", type=int, default=200, help="more than the time allows")
    parser.add_argument("--minutes", type=float, default=47.0, help="time after which the job gets SIGTERM")
    parser.add_argument("--warm-up-minutes", type=float, default=WARM_UP_MINUTES)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if bool(arguments.data) != bool(arguments.work):
        parser.error("a soak needs both --data and --work")
    if arguments.data:
        figures, lines = soak(arguments)
        arguments.results.write_text(compact(figures))
        draw(figures, lines, PICTURE if arguments.results == RESULTS else arguments.results.with_suffix(".png"))
    figures = json.loads(arguments.results.read_text())
    if arguments.results == RESULTS:
        write_page(figures)
    print(table(figures))
    print(json.dumps(figures["left"], indent=1))
    if figures["returncode"] != 128 + signal.SIGTERM:
        sys.exit(f"error: the job ended early, with {figures['returncode']}, after {figures['minutes']} minutes")


if __name__ == "__main__":
    main()
