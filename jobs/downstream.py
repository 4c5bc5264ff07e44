"""Train a property predictor: ``python jobs/downstream.py --data crystals.parquet --property bulk_modulus_kv``."""

import bootstrap  # makes crysatom importable


def main() -> None:
    """Run the job."""
    from crysatom.config import DownstreamConfig, parse

    config = parse(DownstreamConfig)
    bootstrap.begin(config, names=[f"{config.output.name}-seed{seed}" for seed in config.seeds if config.output.name])
    from crysatom.pipelines.downstream import describe, run

    print(describe(run(config)))


if __name__ == "__main__":
    bootstrap.run(main, kept="finished seeds, graphs and the newest checkpoints", resumes=True)
