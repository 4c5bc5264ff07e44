"""Studies that are grids of runs: the paper's tables, learning curves, held-out elements."""
