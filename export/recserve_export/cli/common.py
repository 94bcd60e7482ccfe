"""What the commands of this room share: the choice of a precision, errors as one line, progress of a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final

import typer

from recserve_client.cli.console import fail, progress
from recserve_export.errors import ExportError
from recserve_server_ext.common.errors import ServerError


class Precision(StrEnum):
    """Choices of `--precision`."""

    AUTO = "auto"
    FP32 = "fp32"
    INT8 = "int8"
    INT8_FAST = "int8-fast"
    FP16 = "fp16"
    BF16 = "bf16"


MILVUS_URI: Any = typer.Option(
    "", "--milvus-uri", help="Where Milvus is, for an index that is there: http://host:port, /name for a database."
)
MILVUS_TOKEN: Any = typer.Option("", "--milvus-token-file", help="File with user:password or an API key of Milvus.")

#: What an export of users says.
OWN_FILES: Final = "no erasure reaches exported files: they are yours to erase users from"


def check_recall(recall: float) -> None:
    """End with exit code 2 where a recall to reach is none."""
    if not 0 < recall <= 1:
        fail(f"--recall must be above 0 and at most 1, got {recall:g}", code=2)


@contextmanager
def explained(*others: type[Exception]) -> Iterator[None]:
    """Errors of the rooms, and these others, as one line and exit code 1."""
    expected: tuple[type[Exception], ...] = (ExportError, ServerError, *others)
    try:
        yield
    except expected as error:
        fail(str(error))


@contextmanager
def stage_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar for one stage of the work; yields what moves it on."""
    with progress(what, total) as bar:
        yield lambda count: bar.advance(bar.task_ids[0], count)
        if total is None:
            bar.update(bar.task_ids[0], total=1, completed=1)
