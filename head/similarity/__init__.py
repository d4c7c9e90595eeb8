"""Ways from frame embeddings to one vector a video, one module each.

This module imports nothing.
"""
