"""Feature store in, trained head and retrieval numbers out.

This module imports nothing, so that opening a store loads neither a decoder nor Ray.
"""
