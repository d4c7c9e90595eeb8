"""The report of an evaluation as one page of HTML that needs nothing beside it.

This module imports nothing.
"""
