"""Topics of plots: BERTopic on the embeddings of a trained model."""
