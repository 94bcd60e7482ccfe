"""Errors of this room.

::

    ExportError
    ├── MappingError         a field mapping is wrong, or names a column that the source lacks
    ├── SourceError          the source of a catalogue is missing or cannot be read
    ├── EncoderSourceError   the folder of a model is missing, damaged or not supported
    └── FidelityError        an exported encoder does not agree with the model it came from
"""


class ExportError(Exception):
    """Root of this room's errors; the message says what was wrong, which value, and what to do."""


class MappingError(ExportError):
    """A field mapping is wrong, or names a column that the source lacks."""


class SourceError(ExportError):
    """The source of a catalogue is missing or cannot be read."""


class EncoderSourceError(ExportError):
    """The folder of a model is missing, damaged or not supported."""


class FidelityError(ExportError):
    """An exported encoder does not agree with the model it came from."""
