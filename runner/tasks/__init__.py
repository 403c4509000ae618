"""The tasks that networks learn, a class for each: classes, several labels, numbers."""
