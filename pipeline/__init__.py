"""Videos and captions in, feature store out.

This module imports nothing, so that opening a store loads neither a decoder nor Ray.
"""
