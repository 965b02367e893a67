"""Fetch plots, languages and poster addresses.

ray job submit --working-dir . -- python jobs/enrich.py configs/enrich/default.yaml catalog=DIR output=DIR
"""

from mmgenre.enrich import EnrichConfig, enrich
from mmgenre.job import run

if __name__ == "__main__":
    run(EnrichConfig, enrich)
