"""The whole chain in Python: the runner's verbs as methods of a study, and a run as an object."""
