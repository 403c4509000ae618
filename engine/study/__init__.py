"""A study: one DuckDB file of slides, ROIs, patients, grids, labels and predictions."""

from slideduck.study.study import Study, open_study

__all__ = ["Study", "open_study"]
