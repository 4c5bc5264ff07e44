"""Make an HTML page from MLflow: ``python jobs/report.py --experiment crysatom-pretrain --out report.html``."""

import bootstrap  # makes crysatom importable


def main() -> None:
    """Run the job."""
    from crysatom.config import ReportConfig, parse

    config = parse(ReportConfig)
    bootstrap.begin(config, out_is_file=True)
    from crysatom.report.pipeline import describe, run

    print(describe(run(config)))


if __name__ == "__main__":
    bootstrap.run(main, kept="the previous page; a new one replaces it at the end")
