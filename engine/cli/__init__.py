"""The commands `slideduck ...` of the engine: each parses, calls one method, prints."""
