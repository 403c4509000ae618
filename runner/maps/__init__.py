"""Maps over slides: heatmaps and Grad-CAM."""
