"""Views of a video: what is kept of it, each an array of its own with the same rows.

Knows nothing of encoders beyond their shapes, and nothing of how arrays lie on disk.
"""
