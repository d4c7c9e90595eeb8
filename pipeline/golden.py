"""Temporary."""


def measure_golden(encoder):
    return None


def require_same_golden(found, wanted, *, precision, what):
    pass
