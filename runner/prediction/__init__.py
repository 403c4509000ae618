"""Predictions and features of a trained network, for tiles of betons and of slides."""
