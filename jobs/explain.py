"""Explain predicted genres by words and poster regions: one movie as a page, or a table of movies as a table.

python jobs/explain.py configs/explain/default.yaml checkpoint=DIR plot=TEXT poster=FILE output=DIR
ray job submit --working-dir . -- \\
    python jobs/explain.py configs/explain/default.yaml checkpoint=DIR movies=TABLE_OR_FILE output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.explain.config import ExplainMovieConfig, ExplainTableConfig
    from mmgenre.explain.movie import explain_movie
    from mmgenre.explain.table import explain_table

if __name__ == "__main__":
    run(ExplainTableConfig, explain_table, (ExplainMovieConfig, explain_movie))
