"""Pictures and pages of slides: ROIs, labels, filters and stains."""
