"""ROI files of each format, read into outlines, and the table of ROIs."""
