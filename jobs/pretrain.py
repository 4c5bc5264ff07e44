"""Learn element vectors from crystals: ``python jobs/pretrain.py --data crystals.parquet --num-workers 2``."""

import bootstrap  # makes crysatom importable


def main() -> None:
    """Run the job."""
    from crysatom.config import PretrainConfig, parse

    config = parse(PretrainConfig)
    bootstrap.begin(config, names=[config.output.name])
    from crysatom.pipelines.pretraining import describe, run

    print(describe(run(config)))


if __name__ == "__main__":
    bootstrap.run(main, kept="graphs and the newest checkpoints", resumes=True)
