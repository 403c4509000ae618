"""Networks: built by name, with their heads, layers and weights."""
