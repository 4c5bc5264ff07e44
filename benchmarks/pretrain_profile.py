"""Where a warm step of pretraining spends its time, by kind of operation.

    python benchmarks/pretrain_profile.py --table jarvis_dft_3d.parquet

One process, one thread, CPU: own time of each operator in ``torch.profiler``, grouped. The profiler adds to the many
small operations; the seconds of a step are therefore measured without it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from crysatom.config import FeaturizeConfig, default
from crysatom.crystals.table import read_table, write_table
from crysatom.graphs.featurize import featurize_plain
from crysatom.tracking.environment import environment_tags
from crysatom.training.context import PlainContext
from crysatom.training.loop import Loop
from crysatom.training.machine import hardware
from crysatom.training.pretrain import build, resident_data
from crysatom.vectors.elements import element_features

RESULTS = Path(__file__).parent / "results"

GROUPS = {
    "sums of rows (embedding bags)": ("_embedding_bag_forward_only", "index_select", "index"),
    "matrix products": ("mm", "bmm", "addmm", "addmm_"),
    "exp2, log1p, softplus, sigmoid": ("exp2_", "log1p", "softplus", "softplus_backward", "sigmoid", "exp", "exp_"),
    "scatter of gradients": ("scatter_add_", "index_add_", "_index_put_impl_"),
    "arithmetic": (
        *(
            "add",
            "add_",
            "sub",
            "mul",
            "mul_",
            "div",
            "div_",
            "addcmul",
            "addcmul_",
            "reciprocal_",
            "pow",
            "sum",
            "amax",
        ),
        *("addcdiv_", "lerp_", "sqrt", "neg", "clamp_min_", "bitwise_xor"),
    ),
    "memory (fill, copy, cat)": ("fill_", "copy_", "cat", "zero_"),
}


def group_of(operator: str) -> str:
    """Return the group of an operator."""
    name = operator.removeprefix("aten::")
    return next((group for group, names in GROUPS.items() if name in names), "the rest: Python, autograd, sorting")


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="crystal table (.parquet)")
    parser.add_argument("--crystals", type=int, default=512)
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs, after one to warm up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(default(), embedding_dim=arguments.dim, holdout_fraction=0.0)
    with tempfile.TemporaryDirectory() as folder:
        table = read_table(arguments.table)
        rows = np.random.default_rng(0).choice(len(table), arguments.crystals, replace=False)
        write_table(table.take(np.sort(rows)), Path(folder) / "crystals.parquet")
        featurize_plain(FeaturizeConfig.of(data=f"{folder}/crystals.parquet", out=f"{folder}/graphs"))
        data = resident_data(config, Path(folder) / "graphs", torch.device("cpu"))
    model = build(config, element_features(config.encoder.node_features))
    loop = Loop(model, data.train, None, config, PlainContext(Path(folder)))
    loop._train_epoch(model, 0)  # noqa: SLF001 - without the checkpoint that run() writes
    start = time.process_time()
    for epoch in range(1, arguments.epochs + 1):
        loop._train_epoch(model, epoch)  # noqa: SLF001
    steps = arguments.epochs * data.train.num_steps()
    seconds = (time.process_time() - start) / steps
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        loop._train_epoch(model, 0)  # noqa: SLF001
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        times[group_of(event.key)] += event.self_cpu_time_total
    total = sum(times.values())
    result = {
        "cpu_seconds_per_step": round(seconds, 3),
        "cpu_ms_per_crystal": round(1e3 * seconds * data.train.num_steps() / arguments.crystals, 2),
        "shares": {group: round(value / total, 3) for group, value in times.most_common()},
        "settings": {k: v for k, v in vars(arguments).items() if not isinstance(v, Path)},
        "date": time.strftime("%Y-%m-%d"),
        "environment": environment_tags(hardware()),
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pretrain_profile.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
