"""The training dataset: labels, splits and the rows of each split."""
