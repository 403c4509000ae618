"""The label of each tile: made, verified, filtered, split into sides, and asked about."""
