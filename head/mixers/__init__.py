"""Sequence mixers: (B, L, D) -> (B, L, D), one token a place in and out.

Each takes the lengths of ragged sequences, and no output within a length depends on what lies
behind it. They know nothing of frames or scales.
"""
