"""Run the whole pipeline from one config: dump, plots, posters, dataset, training, tags, scores, report.

ray job submit --working-dir . -- python jobs/pipeline.py configs/pipeline/demo.yaml output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.pipeline.job import PipelineConfig, run_pipeline

if __name__ == "__main__":
    run(PipelineConfig, run_pipeline)
