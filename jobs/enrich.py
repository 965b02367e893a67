"""Fetch plots, languages and poster URLs for a CATALOG table.

ray job submit --working-dir . -- python jobs/enrich.py configs/enrich/default.yaml catalog=DIR output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.enrich.job import EnrichConfig, enrich, plan
    from mmgenre.tables.user_files import describe

if __name__ == "__main__":
    run(EnrichConfig, lambda config: plan(config) if config.dry_run else describe(enrich(config)))
