"""The training loop, and folds of it."""
