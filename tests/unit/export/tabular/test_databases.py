"""PostgreSQL as a source, and ids with NUL, which neither kind of store takes."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from recserve_export.cli import interactions
from recserve_export.cli.catalogue import commands as catalogue
from recserve_export.errors import SourceError
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import AllColumns
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore
from support.events import KEY
from support.postgres import Postgres

_SHOP = """
CREATE TABLE items (id uuid, title text, price numeric(10, 2), tags text[], meta jsonb, added timestamptz);
INSERT INTO items VALUES
  ('00000000-0000-0000-0000-000000000001', 'Heat', 9.50, '{Crime,Drama}', '{"brand": "x"}', '2024-03-01 12:00+01'),
  ('00000000-0000-0000-0000-000000000002', 'Ran', NULL, '{}', NULL, NULL);
CREATE TABLE events (who integer, what uuid, at timestamptz, stars numeric(2, 1));
INSERT INTO events SELECT n, '00000000-0000-0000-0000-000000000001', timestamptz '2024-03-01' + n * interval '1 second',
  4.5 FROM generate_series(1, 3000) AS n
"""


@pytest.fixture
def shop(postgres: Postgres) -> str:
    """URL of a database with a catalogue and a log."""
    url = postgres.empty()
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        for statement in _SHOP.split(";"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    return url


def rows(url: str, **options: Any) -> list[Any]:
    return [row for _, row in Opened(url, ReadOptions(**options)).source(AllColumns()).rows()]


def test_a_table_or_a_query(shop: str) -> None:
    (first, second) = rows(shop, query="items")
    assert (first["price"], first["tags"], first["meta"]) == (Decimal("9.50"), ["Crime", "Drama"], {"brand": "x"})
    assert first["added"] == datetime.datetime(2024, 3, 1, 11, tzinfo=datetime.UTC)
    assert second["price"] is None
    assert rows(shop, query="SELECT title FROM items WHERE price > 9;") == [{"title": "Heat"}]
    assert len(rows(shop, query="WITH few AS (SELECT * FROM events LIMIT 2500) SELECT who FROM few")) == 2500


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "has 2 tables; name one or a query with --query: events, items"),
        ("DELETE FROM items", "no table 'DELETE FROM items'"),
        ("SELECT nothing FROM items", "nothing"),
        ("WITH gone AS (DELETE FROM items RETURNING *) SELECT * FROM gone", "DELETE"),
        ("SELECT 1/0 FROM items", "division by zero"),
    ],
)
def test_bad_queries_are_errors_and_change_nothing(shop: str, query: str | None, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        rows(shop, query=query)
    assert len(rows(shop, query="items")) == 2


def test_nobody_answers(shop: str) -> None:
    wrong = sa.make_url(shop).set(database="no_such", password="secret", username="postgres")
    with pytest.raises(SourceError, match="cannot be opened") as caught:
        rows(wrong.render_as_string(hide_password=False), query="items")
    assert "secret" not in str(caught.value)


def test_imports_from_a_database(shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    home = ["--home", str(tmp_path / "home")]
    options = ["--query", "items", "--text", "title", "--attribute", "tags:list", "--attribute", "price:float"]
    options += ["--attribute", "brand", "--map", "brand=meta.brand"]
    done = CliRunner().invoke(catalogue.app, ["import", shop, *options, *home])
    assert "accepted 2 items" in done.output
    with CatalogueStore(tmp_path / "home" / "catalogue.db") as store:
        found = store.get("00000000-0000-0000-0000-000000000001")
        assert found is not None
        assert found.attributes == {"tags": ["Crime", "Drama"], "price": 9.5, "brand": "x"}
    fields = ["--user-field", "who", "--item-field", "what", "--time-field", "at", "--field", "value=stars"]
    done = CliRunner().invoke(
        interactions.app, ["import", shop, "--query", "events", *fields, "--type", "rating", *home]
    )
    assert "recorded 3,000 interactions" in done.output
    assert "100.0% of 3,000" in done.output


def test_an_id_with_nul_is_refused_alone(
    store_place: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    place = store_place if isinstance(store_place, str) else f"sqlite:///{store_place}"
    where = ["--home", str(tmp_path / "home"), "--store", place]
    items = [
        {"id": "a", "title": "x"},
        {"id": "b\0", "title": "x"},
        {"id": "c", "title": "y\0"},
        {"id": "d", "title": "z"},
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    done = CliRunner().invoke(catalogue.app, ["import", str(tmp_path / "items.jsonl"), "--text", "title", *where])
    assert "accepted 2 items of items.jsonl, refused 2" in done.output
    with CatalogueStore(store_place) as store:
        assert [item.id for item in store.items()] == ["a", "d"]


def test_an_interaction_with_nul_is_refused_alone(
    store_place: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    place = store_place if isinstance(store_place, str) else f"sqlite:///{store_place}"
    where = ["--home", str(tmp_path / "home"), "--store", place]
    log = [("u", "a"), ("u", "b\0"), ("u\0", "a"), ("v", "a")]
    (tmp_path / "log.jsonl").write_text(
        "".join(json.dumps({"user_id": user, "item_id": item, "timestamp": 1.7e9}) + "\n" for user, item in log)
    )
    done = CliRunner().invoke(interactions.app, ["import", str(tmp_path / "log.jsonl"), "--type", "click", *where])
    recorded = "recorded 2 interactions of log.jsonl, 0 were there already, refused 2"
    assert recorded in done.output, done.output
    with InteractionStore(store_place) as store:
        assert store.stats().interactions == 2
