"""Export a checkpoint for a model hub: a model card, ONNX, and an encoder that transformers can load.

python jobs/export.py configs/export/default.yaml checkpoint=DIR output=DIR report=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.export.job import ExportConfig, describe, export

if __name__ == "__main__":
    run(ExportConfig, lambda config: describe(export(config)))
