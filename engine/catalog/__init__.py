"""What a study has on record: slides, patients, grids, features and evaluations of runs."""
