"""Exports of checkpoints for other programs: folders for model hubs, with ONNX."""
