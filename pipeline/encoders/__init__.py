"""Image-text encoders: pixels and captions to vectors of one joint space."""
