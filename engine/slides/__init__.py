"""Slide files: their headers, the grid laid on them, and the pixels and stored JPEG bytes of tiles."""
