"""Work in threads: bounded, and given in its order."""
