"""What a trained network says of tiles of betons and of slides."""
