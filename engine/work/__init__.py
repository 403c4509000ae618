"""Work in threads: bounded, with results in the order of the items."""
