"""What is measured on the pixels of tiles and slides: quality and stain."""
