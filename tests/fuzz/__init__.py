"""Mutated inputs for every parser of files that users give."""
