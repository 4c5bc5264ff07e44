"""Read crystals from any source into a crystal table: ``python jobs/ingest.py --source my_cifs --out data/mine``."""

import dataclasses
import sys

import bootstrap  # makes crysatom importable

NOTHING_ACCEPTED = 2


def main() -> int:
    """Run the job; return its exit code: 0, or 2 if no crystal was accepted."""
    from crysatom.config import IngestConfig, parse

    config = parse(IngestConfig)
    bootstrap.begin(config)
    from crysatom.cluster.ingest import ingest
    from crysatom.crystals.quarantine import describe_reasons
    from crysatom.runs.paths import find, resolve

    config = dataclasses.replace(config, source=str(find(config.source)), out=str(resolve(config.out)))
    report = ingest(config, bootstrap.start_ray)
    print(f"read {report.read:,} = accepted {report.accepted:,} + rejected {report.rejected:,}")
    print(f"crystals:   {report.table}")
    if report.rejected:
        print(f"quarantine: {report.quarantine} (id, source, reason and advice for each)")
        print(describe_reasons(report.reasons))
    if report.notes_file:
        print(f"notes:      {report.notes_file} (id, source, and a note of the reader)")
        print(describe_reasons(report.notes))
    if report.accepted:
        return 0
    print("error: no crystal was accepted; see the quarantine", file=sys.stderr)
    return NOTHING_ACCEPTED


if __name__ == "__main__":
    bootstrap.run(main, kept="nothing; the table is written at the end")
