"""The demo: a small cohort is painted, and the whole job runs on it."""
