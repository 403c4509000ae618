"""Reads ROI files of every program into outlines."""
