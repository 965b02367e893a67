"""Build the catalogue from an IMDb dump.

python jobs/catalog.py configs/catalog/default.yaml input=title.basics.tsv.gz output=runs/catalog
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.catalog.job import CatalogConfig, catalog, describe

if __name__ == "__main__":
    run(CatalogConfig, lambda config: describe(catalog(config)))
