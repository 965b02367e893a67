"""Write a checkpoint as a folder for a model hub: a model card, ONNX, and what transformers loads of it.

python jobs/export.py configs/export/default.yaml checkpoint=DIR output=DIR report=DIR
"""

from mmgenre.cli import run
from mmgenre.export.job import ExportConfig, describe, export

if __name__ == "__main__":
    run(ExportConfig, lambda config: describe(export(config)))
