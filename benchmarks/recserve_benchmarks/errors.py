"""Errors of this package."""


class BenchmarkError(Exception):
    """A measurement failed, or would not mean anything; the message says what to do."""
