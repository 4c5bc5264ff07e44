"""Settings of the pretraining in general."""

from crysatom.config import Choice, LogUniform, SearchSpace, Uniform


def space() -> SearchSpace:
    """Return random trials; the worse half is stopped at each evaluation."""
    return SearchSpace(
        objective="pretrain",
        settings={
            "lr": LogUniform(3e-4, 3e-2),
            "connectivity_weight": Uniform(0.0, 1.0),
            "feature_weight": Uniform(0.0, 1.0),
            "ssl_weight": Uniform(0.0, 1.0),
            "atom_mask_fraction": Uniform(0.05, 0.4),
            "edge_mask_fraction": Uniform(0.05, 0.4),
            "num_layers": Choice((2, 3, 5)),
            "embedding_dim": Choice((50, 100, 200)),
            "schedule": Choice(("cosine", "constant")),
        },
        fixed={"epochs": 16, "batch_size": 48},
        num_trials=12,
        halving=2,
    )
