"""Users over a real Triton: what was acknowledged counts at once and stays, and what was erased is nowhere."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from recserve_client import AsyncClient, Client, ClientOptions, NewItem, interaction, item, text
from recserve_client.errors import InvalidRequest
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import read_pseudonyms
from support.served import Served
from support.wire import Wire

pytestmark = pytest.mark.triton


def recorded(client: Client, *interactions: Any) -> list[str]:
    return [result.status for result in client.interactions.record(interactions).results]


def test_the_next_recommendation_knows_what_was_recorded(client: Client, films: list[str]) -> None:
    assert recorded(client, interaction("next", "like", films[3])) == ["recorded"]
    first = client.recommend_for("next", k=5, fields=["title"])
    assert first.strategy == "text"
    assert isinstance(first.history, list)
    assert [used.item for used in first.history] == [films[3]]
    expected = client.recommend([item(films[3])], k=5)
    assert [found.id for found in first.items] == [found.id for found in expected.items]
    assert recorded(client, interaction("next", "purchase", films[40])) == ["recorded"]
    second = client.recommend_for("next", k=5)
    assert [found.id for found in second.items] != [found.id for found in first.items]
    assert films[40] not in [found.id for found in second.items]
    shown = client.users.history("next")
    assert isinstance(second.history, list)
    assert [entry.weight for entry in shown.entries] == [used.weight for used in second.history]
    for found in second.items:
        assert sum(found.contributions or []) == pytest.approx(found.score, abs=1e-5)


def test_a_session_counts_without_being_recorded(client: Client, films: list[str]) -> None:
    recorded(client, interaction("visit", "like", films[3]))
    alone = client.recommend_for("visit", session=[text("war")], mix=1.0, k=3)
    expected = client.recommend([text("war")], exclude=[films[3]], k=3)
    assert [found.id for found in alone.items] == [found.id for found in expected.items]
    assert client.users.history("visit").read == 1


def test_a_duplicate_changes_nothing(client: Client, films: list[str]) -> None:
    first = interaction("twice", "click", films[0], event_id="twice-1")
    other = interaction("twice", "click", films[1], event_id="twice-1")
    assert recorded(client, first, first) == ["recorded", "duplicate"]
    assert recorded(client, other) == ["duplicate"]
    assert [entry.item for entry in client.users.history("twice").entries] == [films[0]]


def test_an_unknown_item_counts_once_it_exists(client: Client) -> None:
    assert recorded(client, interaction("early", "like", "later1")) == ["recorded"]
    assert client.recommend_for("early").strategy == "popular"
    client.items.upsert([NewItem("later1", {"title": "a film about lighthouses"})])
    found = client.recommend_for("early", k=3)
    assert found.strategy == "text"
    expected = client.recommend([item("later1")], k=3)
    assert [one.id for one in found.items] == [one.id for one in expected.items]


def test_what_is_popular_comes_to_who_is_new(client: Client, films: list[str]) -> None:
    for n in range(20):
        recorded(client, interaction(f"fan{n}", "like", films[7]))
    deadline = time.monotonic() + 20
    while True:
        found = client.recommend_for("who is new", k=1)
        assert found.strategy == "popular"
        # A count may come while they are recorded.
        users = [one.facts["users"] for one in found.items if one.id == films[7] and isinstance(one.facts, dict)]
        if users and users[0] >= 20:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_asyncio_client_does_the_same(live: Served, films: list[str]) -> None:
    async def ask() -> None:
        async with AsyncClient(live.grpc) as client:
            answer = await client.interactions.record([interaction("async", "like", films[5])])
            assert answer.results[0].status == "recorded"
            assert (await client.recommend_for("async")).strategy == "text"
            assert (await client.users.history("async")).read == 1
            receipt = await client.users.erase("async")
            assert (await client.users.verify_erasure("async", receipt)).is_valid

    asyncio.run(ask())


def test_what_cannot_be_sent_is_refused_without_the_user(client: Client) -> None:
    for bad in (
        lambda: client.interactions.record([interaction("secret", "rating", "x", value=float("nan"))]),
        lambda: client.interactions.record([interaction("secret", "rating", "x", context={"a": float("inf")})]),
        lambda: client.interactions.record([interaction("secret\ud800", "rating", "x")]),
        lambda: client.users.erase("secret\ud800"),
        lambda: client.recommend_for("secret\0"),
        lambda: client.recommend_for("secret" * 100),
        lambda: client.recommend_for("secret", mix=float("nan")),
    ):
        with pytest.raises(InvalidRequest) as refused:
            bad()
        assert "secret" not in str(refused.value)


def test_bad_input_over_the_wire_is_refused_alone(live: Served) -> None:
    wire = Wire(live.grpc)
    now = time.time()
    good = {"user_id": "wire", "type": "click", "timestamp": now, "item": "i"}
    events: list[dict[str, Any]] = [{**good, "event_id": f"wire{n}"} for n in range(1000)]
    events[7] = {**good, "user_id": "u" * 10_000}
    events[8] = {**good, "user_id": ""}
    events[9] = {**good, "user_id": "a\0b"}
    events[10] = {**good, "timestamp": 1e300}
    events[11] = {**good, "item": None, "text": "x" * 1_000_000}
    results = wire.ask("interactions", {"op": "record", "interactions": events})["results"]
    assert [n for n, result in enumerate(results) if result["status"] == "refused"] == [7, 8, 9, 10, 11]
    reasons = [results[n]["reason"] for n in range(7, 12)]
    assert reasons == ["invalid_user", "invalid_user", "invalid_user", "in_future", "too_large"]
    # Letters that look alike are other letters, so another user.
    latin, cyrillic = {**good, "user_id": "paypal"}, {**good, "user_id": "p\u0430ypal"}
    wire.ask("interactions", {"op": "record", "interactions": [latin]})
    assert wire.ask("interactions", {"op": "history", "user_id": cyrillic["user_id"]})["read"] == 0
    raw = json.dumps({"op": "record", "interactions": [good]}).replace('"timestamp"', '"value": NaN, "timestamp"')
    status, message = wire.refused("interactions", raw.encode())
    assert (status, message.partition(":")[0]) == ("INVALID_ARGUMENT", "invalid_json")
    forged = {**good, "event_id": "forged", "recommendation_id": "made-up"}
    wire.ask("interactions", {"op": "record", "interactions": [forged]})
    held = wire.ask("interactions", {"op": "export", "user_id": "wire"})["interactions"]
    assert [row["recommendation_id"] for row in held if row["event_id"] == "forged"] == ["made-up"]


def holding(home: Path, *needles: bytes) -> list[str]:
    """Files under the home that hold any of these."""
    found = []
    for path in home.rglob("*"):
        with suppress(FileNotFoundError):  # a snapshot that is compacted away meanwhile
            if path.is_file() and not path.is_symlink() and any(needle in path.read_bytes() for needle in needles):
                found.append(str(path))
    return found


def test_of_an_erased_user_no_file_holds_anything(client: Client, live: Served, home: Path, films: list[str]) -> None:
    user = "erased-user-7f3a"
    pseudonym = read_pseudonyms(Workspace(home).pseudonym_key).of(user)
    events = [interaction(user, "like", films[n], session_id="erased-session-9c1d") for n in range(200)]
    assert recorded(client, *events) == ["recorded"] * 200
    answer = client.recommend_for(user).recommendation_id
    deadline = time.monotonic() + 20
    while not (held := client.users.export(user)).answers:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (len(held.interactions), held.answers[0].recommendation_id) == (200, answer)
    assert holding(home, pseudonym.encode())
    assert holding(home, answer.encode())
    client.recommend_for(user)  # this one may still wait to be logged
    assert not holding(home, user.encode())
    receipt = client.users.erase(user)
    assert receipt.interactions == 200
    assert not holding(home, user.encode(), pseudonym.encode(), b"erased-session-9c1d", answer.encode())
    assert user not in live.log.read_text()
    verified = client.users.verify_erasure(user, receipt)
    assert (verified.is_valid, verified.interactions, verified.seen, verified.answers) == (True, 0, 0, 0)
    assert not client.users.verify_erasure("another", receipt).is_valid
    assert client.users.export(user).interactions == []
    late = client.interactions.record(events[:1]).results[0]
    assert (late.status, late.reason) == ("refused", "erased")
    assert client.recommend_for(user).strategy == "popular"


def test_a_running_server_goes_on_with_a_key_that_was_rotated(client: Client, home: Path, films: list[str]) -> None:
    place = Workspace(home)
    old = read_pseudonyms(place.pseudonym_key).of("rotated")
    events = [interaction("rotated", "like", films[n], timestamp=time.time() - 100 - n) for n in range(5)]
    assert recorded(client, *events) == ["recorded"] * 5
    gone = client.users.erase("erased before")
    command = [sys.executable, "-m", "recserve_client.cli.main", "keys", "rotate", "--home", str(home)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr
    assert "2 keys are needed" in said
    new = read_pseudonyms(place.pseudonym_key).of("rotated")
    assert new != old
    assert not holding(home, old.encode())
    # The first request may be refused as unavailable, which the client tries again.
    assert recorded(client, *events) == ["duplicate"] * 5
    assert client.users.export("rotated").pseudonym == new
    assert client.recommend_for("rotated").strategy == "text"
    late = client.interactions.record([interaction("erased before", "like", films[0], timestamp=1e9)]).results[0]
    assert late.reason == "erased"
    assert client.users.verify_erasure("erased before", gone).is_valid
    assert not holding(home, old.encode())


def test_an_erasure_that_races_with_records_leaves_only_later_ones(client: Client, live: Served) -> None:
    user, stop = "racer", threading.Event()
    accepted: list[float] = []

    def write(part: int) -> None:
        with Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as own:
            n = 0
            while not stop.is_set():
                n += 1
                found = interaction(user, "click", f"race{part}-{n}")
                if recorded(own, found) == ["recorded"]:
                    accepted.append(found.timestamp)

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(write, part) for part in range(4)]
        receipts = []
        for _ in range(5):
            seen = len(accepted)
            while len(accepted) < seen + 20 and not any(future.done() for future in futures):
                time.sleep(0.005)
            asked_at = time.time()
            receipts.append(client.users.erase(user))
        stop.set()
        for future in futures:
            future.result()
    held = [row["timestamp"] for row in client.users.export(user).interactions]
    gone = sum(receipt.interactions for receipt in receipts)
    assert gone + len(held) == len(accepted)
    assert all(timestamp > asked_at for timestamp in held)


def test_the_commands_show_export_and_erase(client: Client, live: Served, films: list[str]) -> None:
    recorded(client, interaction("shell", "like", films[0]))

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "recserve_client.cli.main", "users", *arguments, "--address", live.grpc]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == code, ended.stderr
        return ended

    assert films[0] in run("history", "shell").stdout
    assert msgspec.json.decode(run("history", "shell", "--json").stdout)["read"] == 1
    assert len(msgspec.json.decode(run("export", "shell").stdout)["interactions"]) == 1
    ended = run("erase", "shell", "--yes")
    assert msgspec.json.decode(ended.stdout)["interactions"] == 1
    assert "1 interactions removed" in ended.stderr
    assert msgspec.json.decode(run("export", "shell").stdout)["interactions"] == []
    refused = run("history", "", code=1)
    assert "empty" in refused.stderr


def test_a_request_as_of_a_moment_knows_nothing_that_came_later(client: Client, films: list[str]) -> None:
    now = time.time()
    then = now - 3600
    recorded(
        client,
        interaction("replayed", "like", films[5], timestamp=then - 60),
        interaction("replayed", "like", films[60], timestamp=then + 60),
    )
    past = client.recommend_for("replayed", k=5, now=then)
    expected = client.recommend([item(films[5])], k=5)
    assert [found.id for found in past.items] == [found.id for found in expected.items]
    assert isinstance(past.history, list)
    assert [used.item for used in past.history] == [films[5]]
    today = client.recommend_for("replayed", k=5)
    assert isinstance(today.history, list)
    assert [used.item for used in today.history] == [films[60], films[5]]
    assert client.recommend_for("replayed", now=then - 3600).strategy == "popular"
    assert client.recommend([item(films[5])], strategy="popular", k=3, now=then).strategy == "popular"
    for moment in (now + 3600, now - 2e8):
        with pytest.raises(InvalidRequest, match=r"\$\.now is"):
            client.recommend_for("replayed", now=moment)


def test_moments_are_refused_where_no_setting_allows_them(wire: Wire, films: list[str]) -> None:
    with pytest.raises(grpc.RpcError, match=r"limits\.replay_s"):
        wire.ask("recommend", {"history": [{"item": films[5]}], "now": time.time() - 5})
