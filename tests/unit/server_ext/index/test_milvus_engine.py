"""The engine over Milvus, without one: translation, what is refused, and what happens while it is away."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_client.contract import ErrorKind, RequestError
from recserve_client.contract.filters import Eq, Filter, Not
from recserve_client.where import parse_where
from recserve_server_ext.attributes.view import Allowed, LiveFilters
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Rows, Scores, Vectors
from recserve_server_ext.common.errors import ConfigError, MilvusError, SnapshotError
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.engines.engine import RemoteEngine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.milvus import connection as milvus_connection
from recserve_server_ext.index.engines.milvus.collection import Loadable, Loaded
from recserve_server_ext.index.engines.milvus.connection import MilvusConnection
from recserve_server_ext.index.engines.milvus.engine import FILE, MilvusEngine
from recserve_server_ext.index.engines.milvus.filter import AttributeKeys, check_translatable
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.retrieval.search import CandidateSpec, search
from support.edited import ENCODER, Edited
from support.service import Service
from support.small_snapshot import small_snapshot, with_engine

NOBODY = np.empty(0, np.int64)


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        ("year >= 1990 and year < 2000", '(attributes["a1"] >= 1990.0 and attributes["a1"] < 2000.0)'),
        ("1990 <= year < 2000", '(attributes["a1"] >= 1990.0 and attributes["a1"] < 2000.0)'),
        ('"Drama" in genre', 'json_contains(attributes["a2"], "Drama")'),
        ("7.0 in genre", 'json_contains(attributes["a2"], 7)'),
        ('title != "x"', '((exists attributes["a0"]) and not (attributes["a0"] == "x"))'),
        ('title prefix "St"', '(attributes["a0"] >= "St" and attributes["a0"] < "Su")'),
        ("not exists(title)", 'not ((exists attributes["a0"]))'),
        (
            'title in ["a", 1, true]',
            '(attributes["a0"] in ["a"] or attributes["a0"] in [1.0] or attributes["a0"] == true)',
        ),
        ("later = 1", "row < 0"),
    ],
)
def test_expressions(where: str, expression: str) -> None:
    assert AttributeKeys(["title", "year", "genre"]).expression(parse_where(where)) == expression


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (parse_where("within(place, 1, 2, 3km)"), "within on 'place' cannot be evaluated by Milvus.*distances"),
        (Not(Eq("title", "x" * 1025)), "eq on 'title'.*1,025 characters"),
        (parse_where("year in [1, 9007199254740992]"), "in on 'year'.*beyond 2"),
    ],
)
def test_what_has_no_exact_translation_is_refused(condition: Filter, why: str) -> None:
    with pytest.raises(RequestError, match=why) as refused:
        check_translatable(condition)
    assert refused.value.kind is ErrorKind.INVALID_REQUEST


def test_stored_values() -> None:
    fields: dict[str, Any] = {
        "a": 7.0,
        "b": float("nan"),
        "c": None,
        "d": 2**70,
        "e": ["x", 1.0, None, {}],
        "f": "y" * 2000,
        "g": 0.5,
    }
    stored = AttributeKeys(list(fields)).stored(fields)
    assert stored == {"a0": 7, "a3": {}, "a4": ["x", 1, {}], "a5": "y" * 1025, "a6": 0.5}
    assert type(stored["a0"]) is int


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def engine_at(uri: str, vectors: Vectors) -> MilvusEngine:
    settings = MilvusSettings(uri=uri, search_s=0.3)
    connection = MilvusConnection(settings)
    return MilvusEngine(connection, Loaded("recserve_x", []), vectors, {"M": 16, "ef": 64}, settings.search_s)


def test_while_it_is_away_searches_are_refused_and_only_some_of_them_wait(
    closed_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_at(f"http://root:secret@127.0.0.1:{closed_port}", np.eye(4, dtype=np.float32))
    tried: list[str] = []
    connect = milvus_connection._connect

    def count(settings: MilvusSettings, timeout_s: float) -> Any:
        tried.append(settings.uri)
        return connect(settings, timeout_s)

    now = 100.0
    monkeypatch.setattr(milvus_connection, "_connect", count)
    monkeypatch.setattr("recserve_server_ext.index.engines.milvus.connection.time.monotonic", lambda: now)
    for _ in range(3):
        with pytest.raises(RequestError, match="Milvus, which searches this catalogue, is away; try") as refused:
            engine.search(np.eye(4, dtype=np.float32), 2)
        assert refused.value.kind is ErrorKind.UNAVAILABLE
    assert len(tried) == len(caplog.records) == 1
    assert f"Milvus at 127.0.0.1:{closed_port} cannot be reached" in caplog.text
    now += milvus_connection._PAUSE_S
    with pytest.raises(RequestError):
        engine.search(np.eye(4, dtype=np.float32), 2)
    assert len(tried) == 2
    assert "secret" not in caplog.text


def test_rows_that_cannot_be_deleted_now_are_kept_for_later(closed_port: int) -> None:
    engine = engine_at(f"http://127.0.0.1:{closed_port}", np.eye(4, dtype=np.float32))
    engine.forget(np.array([1, 3]))
    engine.wait()
    assert engine._forgotten._rows == {1, 3}
    assert engine.forgetting == 2


def test_a_snapshot_is_loaded_while_milvus_is_away_or_unknown(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(SnapshotError, match=r"milvus.json cannot be read.*recserve index build"):
        MilvusEngine.load(tmp_path, vectors, {"ef": 64}, MilvusSettings())
    (tmp_path / FILE).write_bytes(b'{"collection": "recserve_1", "attributes": []}')
    engine = MilvusEngine.load(tmp_path, vectors, {"ef": 64}, MilvusSettings())
    with pytest.raises(ConfigError, match=r"nothing says where: set uri in the table \[milvus\]"):
        engine.search(vectors, 1)


def test_a_token_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere cannot be read.*token of Milvus"):
        MilvusSettings(token_file=str(tmp_path / "nowhere")).token()
    (tmp_path / "token").write_text("root:Milvus\n")
    assert MilvusSettings(token_file=str(tmp_path / "token")).token() == "root:Milvus"


def test_a_build_without_milvus_is_one_error(closed_port: int) -> None:
    items = Loadable.of_items(np.eye(4, dtype=np.float32), list("abcd"), None, "")
    with pytest.raises(MilvusError, match="cannot be reached"):
        MilvusEngine.build(items, MilvusSettings(uri=f"http://127.0.0.1:{closed_port}"), m=4, ef_construction=8, ef=8)


def test_one_batch_asks_once_while_milvus_is_away(tmp_path: Path) -> None:
    snapshot = small_snapshot(tmp_path)
    asked: list[int] = []

    class Away(Elsewhere):
        def search(
            self,
            queries: Vectors,
            k: int,
            *,
            ef: int | None = None,
            banned: Sequence[Rows] = (),
            where: Filter | None = None,
        ) -> tuple[Rows, Scores]:
            asked.append(len(queries))
            raise RequestError(ErrorKind.UNAVAILABLE, "Milvus is away; try again")

    service = Service(with_engine(snapshot, Away(snapshot.text.vectors, 0)), Limits())
    request = b'{"history": [{"item": "i9"}], "k": 3}'
    answers = service.send(request, request, b"{")
    assert asked == [2]
    kinds = [answer.kind if isinstance(answer, RequestError) else None for answer in answers]
    assert kinds == [ErrorKind.UNAVAILABLE, ErrorKind.UNAVAILABLE, ErrorKind.INVALID_JSON]


class Elsewhere(RemoteEngine):
    """An engine elsewhere that finds less than there is."""

    name = "milvus"

    def __init__(self, vectors: Vectors, finds: int) -> None:
        self.parameters: dict[str, int] = {"ef": 64}
        self.asked: list[tuple[int, int | None, Filter | None]] = []
        self.forgotten: list[int] = []
        self._exact = ExactEngine(vectors)
        self._finds = finds

    def check(self, where: Filter) -> None:
        check_translatable(where)

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        ef: int | None = None,
        banned: Sequence[Rows] = (),
        where: Filter | None = None,
    ) -> tuple[Rows, Scores]:
        self.asked.append((k, ef, where))
        rows, scores = self._exact.search(queries, k, banned=banned)
        rows[:, self._finds :], scores[:, self._finds :] = -1, -np.inf
        return rows, scores

    def forget(self, rows: Rows) -> None:
        self.forgotten += rows.tolist()

    @property
    def forgetting(self) -> int:
        return len(self.forgotten)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def with_parameters(self, parameters: Mapping[str, int]) -> Elsewhere:
        raise NotImplementedError


def test_k_items_come_back_even_where_milvus_finds_fewer() -> None:
    vectors = np.asarray(np.eye(40, 8, dtype=np.float32) + 0.1, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    engine = Elsewhere(vectors, finds=3)
    view = view_over(vectors, engine)
    where = parse_where("year > 3")
    mask = np.arange(40) > 3
    for allowed, fits in ((None, np.ones(40, np.bool_)), (Allowed(mask, 40, where), mask)):
        (rows,) = search(view.text, vectors[:1], [CandidateSpec(10, NOBODY, None, allowed)])
        expected = np.flatnonzero(fits)[np.argsort(-(vectors[fits] @ vectors[0]), kind="stable")[:10]]
        np.testing.assert_allclose(vectors[rows] @ vectors[0], vectors[expected] @ vectors[0], atol=1e-6)
        assert len(rows) == len(set(rows.tolist())) == 10
    # The filter went along, and nothing was searched wider for it.
    assert [(ef, found) for _, ef, found in engine.asked] == [(None, None), (None, where)]
    assert engine.asked[1][0] < 20


def test_a_filter_it_cannot_evaluate_is_refused_before_any_work() -> None:
    vectors = np.eye(4, dtype=np.float32)
    view = view_over(vectors, Elsewhere(vectors, 4))
    with pytest.raises(RequestError, match="cannot be evaluated by Milvus"):
        # Before it is even seen that nothing has such an attribute.
        LiveFilters(view).of(view).allowed(parse_where("within(place, 1, 2, 3km)"))


def test_rows_of_the_snapshot_that_are_gone_are_forgotten_once(tmp_path: Path) -> None:
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=8)
    engines: list[Elsewhere] = []

    def load(folder: Path) -> Snapshot:
        found = Snapshot.load(folder, encoder=ENCODER)
        engines.append(Elsewhere(found.text.vectors, 8))
        return with_engine(found, engines[-1])

    live = LiveCatalogue(edited.snapshots, load, lambda: edited.store)
    edited.change("delete", [{"id": "i3"}])
    edited.change("upsert", [{"id": "i5", "texts": {"title": "another"}}, {"id": "new", "texts": {"title": "new"}}])
    live.view()
    edited.change("delete", [{"id": "new"}])
    live.view()
    assert engines[0].forgotten == [3, 5]
    assert live.forgetting == 2
    edited.store.close()
