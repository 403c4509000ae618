"""What a network is trained for: a class for each task (classes, several labels, numbers)."""
