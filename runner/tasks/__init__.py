"""What a network is trained for: classes, several labels, numbers."""
