"""What a run's stages took, and which of them bounds it."""
