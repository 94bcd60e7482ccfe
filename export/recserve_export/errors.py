"""Errors of this room.

::

    ExportError
    ├── MappingError      a field mapping is wrong, or names a column that the source lacks
    └── SourceError       the source of a catalogue is missing or cannot be read
"""


class ExportError(Exception):
    """Root of this room's errors; the message says what was wrong, which value, and what to do."""


class MappingError(ExportError):
    """A field mapping is wrong, or names a column that the source lacks."""


class SourceError(ExportError):
    """The source of a catalogue is missing or cannot be read."""
