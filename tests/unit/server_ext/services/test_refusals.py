"""Refusals on disk: the newest of each model, without what messages quote."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import pytest

from recserve_client.contract import ErrorKind, RequestError, nearest, shown
from recserve_server_ext.services.refusals import MOST, RefusalFollower, Refusals, newest_refusals

SECRET = "ann@example.org"


def refusals(model: str, tmp_path: Path, start: float = 0.0) -> Refusals:
    moments = count(start)
    return Refusals(model, tmp_path / "8001", every_s=1e6, clock=lambda: next(moments))


def test_the_newest_of_all_models(tmp_path: Path) -> None:
    one, other = refusals("recommend", tmp_path), refusals("embed", tmp_path, 0.5)
    for number in range(MOST + 5):
        one.add(RequestError(ErrorKind.INVALID_REQUEST, f"number {number}"), "")
    other.add(RequestError(ErrorKind.UNAVAILABLE, "away"), "")
    one.close()
    other.close()
    found = newest_refusals(tmp_path, 1000)
    assert len(found) == MOST + 1
    assert (found[0].text, found[0].time, found[0].model) == (f"number {MOST + 4}", MOST + 4.0, "recommend")
    assert (found[-1].kind, found[-1].model) == (ErrorKind.UNAVAILABLE, "embed")
    assert newest_refusals(tmp_path, 2) == found[:2]
    assert newest_refusals(tmp_path / "nowhere", 2) == []


@pytest.mark.parametrize(
    "text",
    [
        f"the server's field {shown(SECRET)} is none{nearest(SECRET, ['ann@example.net'])}",
        f"{shown([SECRET, SECRET])} and {shown({'user': SECRET})} of the users' names",
        f"cut: {shown('x' * 90 + SECRET)}",
        f"cut off: {shown([SECRET] * 90)}",
        f"{shown(SECRET.encode())}, {shown(SECRET + chr(39))}, {shown(SECRET + chr(39) + chr(34))}",
        f'JSON "{SECRET}"',
    ],
)
def test_what_a_message_quotes_is_left_out(tmp_path: Path, text: str) -> None:
    kept = refusals("recommend", tmp_path)
    kept.add(RequestError(ErrorKind.INVALID_REQUEST, text), "")
    kept.close()
    (found,) = newest_refusals(tmp_path, 10)
    assert "ann" not in found.text
    assert "…" in found.text


def test_an_id_that_cannot_stand_in_a_line_is_left_out(tmp_path: Path) -> None:
    kept = refusals("recommend", tmp_path)
    given = ["shop-17", "", "two words", "x\ny", "é", "x" * 128, "x" * 129]
    for request_id in given:
        kept.add(RequestError(ErrorKind.UNAVAILABLE, "away"), request_id)
    kept.close()
    found = [one.request_id for one in reversed(newest_refusals(tmp_path, 10))]
    assert found == ["shop-17", "", "", "", "", "x" * 128, ""]


def test_what_is_new_is_followed_model_by_model(tmp_path: Path) -> None:
    begin = time.time() + 1
    one, other = refusals("recommend", tmp_path, begin), refusals("embed", tmp_path, begin)
    follower = RefusalFollower(tmp_path / "8001")
    assert follower.new(5) == []
    for number in range(8):
        one.add(RequestError(ErrorKind.UNAVAILABLE, f"number {number}"), f"id-{number}")
    one.flush()
    assert [found.request_id for found in follower.new(3)] == ["id-7", "id-6", "id-5"]
    assert follower.new(3) == []
    # Written later, but refused before what was seen of another model.
    other.add(RequestError(ErrorKind.UNAVAILABLE, "away"), "other")
    other.flush()
    one.add(RequestError(ErrorKind.UNAVAILABLE, "once more"), "id-8")
    one.flush()
    assert [found.request_id for found in follower.new(3)] == ["id-8", "other"]
    one.close()
    other.close()


def test_what_an_earlier_server_refused_is_not_new(tmp_path: Path) -> None:
    kept = refusals("recommend", tmp_path)
    kept.add(RequestError(ErrorKind.UNAVAILABLE, "away"), "old")
    kept.close()
    assert RefusalFollower(tmp_path / "8001").new(5) == []


def test_a_fault_of_the_disk_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "8001").write_text("a file")
    kept = refusals("recommend", tmp_path)
    kept.add(RequestError(ErrorKind.UNAVAILABLE, "away"), "")
    kept.close()
    assert "refusals cannot be written" in caplog.text
