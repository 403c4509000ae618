"""Processes that train together: launched, joined, and sharing a network."""
