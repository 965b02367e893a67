"""Write a page about the movies and models, and its figures as files.

python jobs/report.py configs/report/default.yaml movies=DIR output=DIR models.NAME.predictions=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.report.job import ReportConfig, report

if __name__ == "__main__":
    run(ReportConfig, lambda config: f"{report(config)}\n{config.page}")
