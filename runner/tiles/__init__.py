"""Tiles of betons on their way to a network: chosen, ordered, decoded, augmented."""
