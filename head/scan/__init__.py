"""One selective scan, several backends that agree: `select` says which one runs.

This module imports nothing.
"""
