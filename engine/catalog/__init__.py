"""The records of a study: slides, patients, grids, features and evaluations of runs."""
