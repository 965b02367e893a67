"""Tag every movie of a table, a file, or an IMDb dump (after fetching its plots and posters).

ray job submit --working-dir . -- \\
    python jobs/tag.py configs/tag/default.yaml checkpoint=DIR movies=TABLE_OR_FILE output=DIR
    python jobs/tag.py configs/tag/dump.yaml checkpoint=DIR input=title.basics.tsv.gz output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.pipeline.dump import BulkConfig, tag_dump
    from mmgenre.tagging.job import TagConfig, tag
    from mmgenre.tagging.output import describe

if __name__ == "__main__":
    run(TagConfig, lambda config: describe(tag(config)), (BulkConfig, tag_dump))
