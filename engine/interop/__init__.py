"""ROIs and tiles written for other programs: QuPath, ImageScope, Slideflow, GeoParquet."""
