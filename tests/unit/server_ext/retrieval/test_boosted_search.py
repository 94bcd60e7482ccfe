"""Boosts choose among all items: slates equal those of a plain choice among every item there is."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_client.contract import Slate
from recserve_client.contract.slate_options import Recency, SlateOptions
from recserve_server_ext.attributes.boosts import at_moment
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.view import SpaceView
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.snapshot import Content, Snapshot, write
from support.edited import ENCODER, Edited, vector_of
from support.examples import examples
from support.plain_slate import User, plain_slate
from support.service import Service
from support.small_snapshot import DIM, text_space

ITEMS = 1500
HIDDEN = 3


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Items whose attributes have nothing to do with their vectors; every third lacks one, a few are hidden."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(ITEMS, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    years, sales = rng.integers(1900, 2000, ITEMS).tolist(), rng.lognormal(2, 2, ITEMS).tolist()
    fields: list[dict[str, Any]] = [{"year": year, "sales": sold} for year, sold in zip(years, sales, strict=True)]
    for item in fields[::3]:
        del item["sales"]
    content = Content(
        spaces=text_space(vectors, ExactEngine(vectors)), ids=[f"i{n}" for n in range(ITEMS)], encoder="test",
        revision=1, available=np.arange(ITEMS) >= HIDDEN, fields=fields,
    )  # fmt: skip
    return Snapshot.load(write(tmp_path_factory.mktemp("boosted"), content), encoder="test")


def final_scores(snapshot: Snapshot, row: int, options: dict[str, Any], where: bool, banned: set[int]) -> list[float]:
    """Of every item, in plain Python but for the product; -inf = it may not be in the slate."""
    plain = (snapshot.text.vectors.astype(np.float64) @ snapshot.text.vectors[row].astype(np.float64)).tolist()
    items = snapshot.fields.take(["year", "sales"], np.arange(ITEMS))
    most = max(item["sales"] or 0.0 for item in items)
    scores = []
    for n, (score, item) in enumerate(zip(plain, items, strict=True)):
        for boost in options["boosts"]:
            value = item[boost["attribute"]]
            if value is not None and boost["by"] == "recency":
                score += boost["weight"] * 2.0 ** (-max(0, boost["now"] - value) / boost["half_life"])
            elif value is not None:
                score += boost["weight"] * np.log1p(value) / np.log1p(most)
        fits = n >= HIDDEN and n not in banned and not (where and item["year"] < 1950)
        scores.append(score if fits else -np.inf)
    return scores


weights = st.sampled_from([-3.0, -0.3, 0.05, 0.4, 2.0, 50.0])
recency_boosts = st.fixed_dictionaries(
    {"by": st.just("recency"), "attribute": st.just("year"), "half_life": st.sampled_from([0.5, 10.0, 500.0]),
     "now": st.sampled_from([1950.0, 1999.0]), "weight": weights}
)  # fmt: skip
popularity_boosts = st.fixed_dictionaries(
    {"by": st.just("popularity"), "attribute": st.just("sales"), "weight": weights}
)


@examples(15)
@given(
    asked=st.lists(
        st.tuples(st.integers(HIDDEN, ITEMS - 1), st.integers(1, 40), st.booleans(), st.booleans()),
        min_size=1, max_size=4,
    ),
    own=st.lists(recency_boosts | popularity_boosts, min_size=1, max_size=2),
    least=st.none() | st.sampled_from([0.3, 1.1]),
)  # fmt: skip
def test_slates_equal_a_choice_among_all_items(
    snapshot: Snapshot, asked: list[tuple[int, int, bool, bool]], own: list[dict[str, Any]], least: float | None
) -> None:
    """Users of one batch share boosts and filters, or not."""
    service = Service(snapshot, Limits())
    options = {"boosts": own, "min_score": least}
    where = {"op": "range", "attribute": "year", "ge": 1950}
    requests = [
        {"history": [{"item": f"i{row}"}], "k": k, "slate": options, "exclude_history": False,
         "where": where if filtered else None, "exclude": [f"i{n}" for n in range(0, 1000, 2)] if excluded else []}
        for row, k, filtered, excluded in asked
    ]  # fmt: skip
    answers = service.send(*(json.dumps(request).encode() for request in requests))
    typed = msgspec.convert(options, SlateOptions)
    for answer, (row, k, filtered, excluded) in zip(answers, asked, strict=True):
        assert isinstance(answer, bytes), answer
        found = msgspec.json.decode(answer, type=Slate).items
        scores = final_scores(snapshot, row, options, filtered, set(range(0, 1000, 2)) if excluded else set())
        picks = [pick for pick, _ in plain_slate(typed, User(scores), k)]
        # float32 products of 16 numbers: items this near may change places.
        assert [item.score for item in found] == pytest.approx([scores[pick] for pick in picks], abs=3e-6)
        assert [scores[int(item.id[1:])] for item in found] == pytest.approx([item.score for item in found], abs=3e-6)


def test_small_boosts_score_nothing_more(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no boost can lift an item past the nearest ones, the engine's answer is enough."""
    looked: list[int] = []
    vectors = SpaceView.vectors

    def counted(view: Any, rows: Any) -> Any:
        looked.append(rows.size)
        return vectors(view, rows)

    monkeypatch.setattr("recserve_server_ext.catalogue.view.SpaceView.vectors", counted)
    service = Service(snapshot, Limits())
    boost = {"by": "recency", "attribute": "year", "half_life": 10, "now": 1999, "weight": 0.01}
    service.ask(history=[{"item": "i9"}], k=5, slate={"boosts": [boost]})
    # The history, the 100 nearest, what is arranged, the slate.
    small = list(looked)
    assert max(small) == 100
    looked.clear()
    service.ask(history=[{"item": "i9"}], k=5, slate={"boosts": [{**boost, "weight": 5}]})
    lifted = np.setdiff1d(looked, small)
    assert len(looked) == len(small) + 1
    assert 0 < lifted.sum() < ITEMS / 10


def test_changed_items_are_lifted_too(tmp_path: Path) -> None:
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=300)
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    service = Service(live.view().snapshot, Limits(), live.view)
    new = [{"id": f"n{n}", "texts": {"title": "not film 1"}, "attributes": {"year": 3000 + n}} for n in range(300)]
    edited.change("upsert", new)
    boost = {"by": "recency", "attribute": "year", "half_life": 1, "now": 3299, "weight": 9}
    slate = service.ask(history=[{"item": "i1"}], k=3, slate={"boosts": [boost]})
    # Farther from the history than anything else, and newer.
    assert [item.id for item in slate.items] == ["n299", "n298", "n297"]
    assert slate.items[0].score == pytest.approx(9 + float(vector_of("film 1") @ vector_of("not film 1")), abs=1e-5)
    edited.store.close()


def test_groups_choose_among_the_best_by_boosted_score(snapshot: Snapshot) -> None:
    boost = {"by": "popularity", "attribute": "sales", "weight": 3}
    service = Service(snapshot, Limits())
    grouped = service.ask(
        history=[{"item": "i9"}], k=5, slate={"boosts": [boost], "groups": [{"attribute": "year", "at_most": 1}]}
    )
    scores = final_scores(snapshot, 9, {"boosts": [boost]}, False, {9})
    expected: list[float] = []
    years: set[int] = set()
    all_years = snapshot.fields.take(["year"], np.arange(ITEMS))
    for n in np.argsort(np.negative(scores)).tolist():
        if (year := all_years[n]["year"]) not in years and len(expected) < 5:
            years.add(year)
            expected.append(scores[n])
    assert [item.score for item in grouped.items] == pytest.approx(expected, abs=3e-6)


def test_one_moment_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.7)
    options = SlateOptions(boosts=[Recency("x", 1, 1), Recency("x", 1, 1, now=5)])
    assert [boost.now for boost in at_moment(options).boosts if isinstance(boost, Recency)] == [1000.0, 5.0]
    assert at_moment(SlateOptions()) == SlateOptions()
