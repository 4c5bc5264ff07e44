"""Search settings of a pretraining or a predictor: ``python jobs/tune.py --space ssl_loss``."""

import bootstrap  # makes crysatom importable

NOTHING_FINISHED = 2
SOME_FAILED = 3


def main() -> int:
    """Run the job; return its exit code: 0, 3 if some trials failed, or 2 if none finished."""
    from crysatom.config import TuneConfig, load_space, parse

    config = parse(TuneConfig)
    bootstrap.begin(config, names=[config.output.name])
    from crysatom.sweeps.record import FAILED_TRIAL, FINISHED
    from crysatom.sweeps.sweep import describe, run

    sweep = run(config, load_space(config.space, bootstrap.SEARCH_SPACES))
    print(describe(sweep))
    if not sweep.count(FINISHED):
        return NOTHING_FINISHED
    return SOME_FAILED if sweep.count(FAILED_TRIAL) else 0


if __name__ == "__main__":
    bootstrap.run(main, kept="graphs, finished trials, and the newest checkpoints of others", resumes=True)
