"""Run the whole line from one file: dump, plots, dataset, training, tags, scores.

ray job submit --working-dir . -- python jobs/pipeline.py configs/pipeline/demo.yaml output=DIR
"""

from mmgenre.cli import run
from mmgenre.pipeline.job import PipelineConfig, run_pipeline

if __name__ == "__main__":
    run(PipelineConfig, run_pipeline)
