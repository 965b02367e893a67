"""Find topics in plots, by the embeddings of a trained text model.

ray job submit --working-dir . -- \\
    python jobs/topics.py configs/topics/default.yaml checkpoint=DIR movies=TABLE_OR_FILE output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.topics.job import TopicsConfig, describe, topics

if __name__ == "__main__":
    run(TopicsConfig, lambda config: describe(topics(config), config.output))
