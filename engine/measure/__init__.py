"""Measures of pixels: the quality of tiles, and the stains of slides."""
