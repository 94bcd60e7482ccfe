"""Errors of this package.

::

    Exception
    └── BenchmarkError    a measurement that would not mean anything; the message says what to do
"""


class BenchmarkError(Exception):
    """A measurement failed, or would not mean anything."""
