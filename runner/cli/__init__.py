"""The commands `slideduck ...` of the runner."""
