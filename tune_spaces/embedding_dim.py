"""Does a longer atom vector help? The dimensions of CrysAtom's Table 9 (arXiv 2409.04737)."""

from crysatom.config import Choice, SearchSpace


def space() -> SearchSpace:
    """Return one trial per dimension; none is stopped early."""
    return SearchSpace(
        objective="pretrain",
        settings={"embedding_dim": Choice((50, 100, 200))},
        fixed={"epochs": 20, "batch_size": 48},
    )
