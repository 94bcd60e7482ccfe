"""Errors of this package.

::

    ExportError
    ├── MappingError         a field mapping is wrong, or names a column that the source lacks
    ├── SourceError          a file of items, interactions or texts is missing or cannot be read
    ├── EncoderSourceError   the folder of a model is missing, damaged or not supported
    ├── TrainingError        a training is unknown, set up wrongly, lacks data, or does not fit into memory
    └── FidelityError        an exported encoder does not agree with the model it came from
"""


class ExportError(Exception):
    """Root of this package's errors; the message says what was wrong, which value, and what to do."""


class MappingError(ExportError):
    """A field mapping is wrong, or names a column that the source lacks."""


class SourceError(ExportError):
    """A file of items, interactions or texts is missing or cannot be read."""


class EncoderSourceError(ExportError):
    """The folder of a model is missing, damaged or not supported."""


class TrainingError(ExportError):
    """A training is unknown, set up wrongly, lacks data, or does not fit into memory."""


class FidelityError(ExportError):
    """An exported encoder does not agree with the model it came from."""


def first_line(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
