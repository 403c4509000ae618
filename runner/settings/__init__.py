"""Settings of a run: what they are, and which values are refused."""
