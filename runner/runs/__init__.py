"""The folder of a run: checkpoints, the network as it was trained, its card."""
