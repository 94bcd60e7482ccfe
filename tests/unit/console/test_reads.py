"""Long reads in processes of their own: what is kept, what is shared, and what a fault becomes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from recserve_console.reads import Reads
from recserve_export.errors import ExportError
from recserve_server_ext.common.errors import SnapshotError
from support.reads import count, fail

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_was_read_is_kept_until_it_is_asked_for_again(tmp_path: Path) -> None:
    reads, path = Reads(), tmp_path / "calls"
    first, process = (await reads.newest(count, path)).found
    assert (first, process != os.getpid()) == (1, True)
    assert (await reads.newest(count, path)).found == (1, process)
    assert (await reads.again(count, path)).found[0] == 2
    assert (await reads.newest(count, path)).found[0] == 2
    assert (await reads.newest(count, tmp_path / "other")).found[0] == 1


async def test_those_who_ask_at_the_same_time_share_a_read(tmp_path: Path) -> None:
    reads, path = Reads(), tmp_path / "calls"
    asked = [reads.newest(count, path), reads.again(count, path), reads.newest(count, path)]
    assert {read.found[0] for read in await asyncio.gather(*asked)} == {1}


async def test_a_read_goes_on_where_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    reads, path = Reads(), tmp_path / "calls"
    waiting = asyncio.create_task(reads.newest(count, path))
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await reads.newest(count, path)).found[0] == 1


async def test_faults_are_those_of_the_read_and_are_not_kept(tmp_path: Path) -> None:
    reads, path = Reads(), tmp_path / "calls"
    for wanted, words in ((SnapshotError, "no snapshot"), (ExportError, "no file")):
        with pytest.raises(wanted, match=words):
            await reads.newest(fail, path)
    with pytest.raises(Exception, match="was ended; try again"):
        await reads.newest(fail, path)
