"""The tree of semantic ids and its beam search, beside a plain search over dictionaries."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recserve_export.training.base import Learned
from recserve_export.training.memory import in_memory
from recserve_server_ext.catalogue.view import SpaceView, view_over
from recserve_server_ext.common.arrays import Mask, Vectors
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.networks.decoder import DecoderRunner, quantised
from recserve_server_ext.networks.network import Decoder
from recserve_server_ext.strategies.parts.id_tree import IdTree, Search, Wanted, ids_of_space, tree_of
from support.sequence import CODES, DIM, LEVELS, tiny_generator

ITEMS = 40
RANDOM = np.random.default_rng(11)


def decoder() -> Decoder:
    found = tiny_generator().decoder
    assert found is not None
    return found


#: Every id occurs, some of them several times.
VECTORS: Vectors = (
    decoder().codebooks[0][np.arange(ITEMS) % CODES]
    + decoder().codebooks[1][np.arange(ITEMS) // CODES % CODES]
    + 0.1 * RANDOM.standard_normal((ITEMS, DIM)).astype(np.float32)
)
USERS: Vectors = RANDOM.standard_normal((5, DIM)).astype(np.float32)
NONE = np.empty(0, np.int64)
RUNNER = DecoderRunner(decoder())


def space_of(available: Mask | None = None, kept: Mask | None = None) -> SpaceView:
    """A space in which some items may have no vector."""
    items = np.arange(ITEMS) if kept is None else np.flatnonzero(kept)
    learned = Learned(items=items, vectors=VECTORS[items], network=tiny_generator())
    text, ids = np.zeros((ITEMS, 1), np.float32), [f"i{n}" for n in range(ITEMS)]
    view = view_over(text, ExactEngine(text), ids, available, *in_memory({"generate": learned}, text, ids))
    return view.space("generate")


def tree(space: SpaceView) -> IdTree:
    return tree_of(space, ids_of_space(space.space))


def plain_p(user: Vectors, rows: list[int]) -> dict[int, float]:
    """p of each item among some, one at a time."""
    codes = {row: tuple(quantised(VECTORS[row : row + 1], decoder().codebooks)[0].tolist()) for row in rows}
    found = {}
    for row in rows:
        value = 0.0
        for level in range(LEVELS):
            before = np.array([codes[row][:level]], np.int64).reshape(1, level)
            value += float(RUNNER(user[None], before).log_probs[0, level, codes[row][level]])
        leaf = RUNNER(user[None], np.array([codes[row]])).leaf[0].astype(np.float64)
        logits = {other: float(VECTORS[other] @ leaf) for other in rows if codes[other] == codes[row]}
        share = np.exp(logits[row]) / sum(np.exp(value) for value in logits.values())
        found[row] = float(np.exp(value)) * float(share)
    return found


def plain_beam(user: Vectors, rows: list[int], allowed: set[int], beam: int, n: int) -> list[int]:
    """Beam search over a dictionary of beginnings."""
    p = plain_p(user, rows)
    codes = {row: tuple(quantised(VECTORS[row : row + 1], decoder().codebooks)[0].tolist()) for row in rows}
    kept: dict[tuple[int, ...], float] = {(): 0.0}
    for level in range(LEVELS):
        below: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row in sorted(allowed):
            if codes[row][:level] in kept:
                below[codes[row][: level + 1]].append(row)
        value = {
            begin: kept[begin[:-1]]
            + float(
                RUNNER(user[None], np.array([begin[:-1]], np.int64).reshape(1, level)).log_probs[0, level, begin[-1]]
            )
            for begin in below
        }
        best, items, width = (
            sorted(value, key=lambda begin: (-value[begin], begin)),
            0,
            max(beam, n if level == LEVELS - 1 else 0),
        )
        kept = {}
        for rank, begin in enumerate(best):
            if rank < width or items < n:
                kept[begin] = value[begin]
            items += len(below[begin])
    reached = [row for row in sorted(allowed) if codes[row] in kept]
    return sorted(reached, key=lambda row: (-p[row], row))[:n]


@settings(max_examples=40, deadline=None)
@given(
    available=st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS),
    kept=st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS),
    allowed=st.one_of(st.none(), st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS)),
    banned=st.lists(st.integers(0, ITEMS - 1), max_size=8),
    beam=st.integers(1, 9),
    n=st.integers(1, 12),
)
def test_the_search_is_that_over_dictionaries(
    available: list[bool], kept: list[bool], allowed: list[bool] | None, banned: list[int], beam: int, n: int
) -> None:
    kept[0] = True
    space = space_of(np.array(available), np.array(kept))
    rows = np.flatnonzero(np.array(available) & np.array(kept)).tolist()
    mask = None if allowed is None else np.array(allowed) & np.array(available)
    may = {row for row in rows if (mask is None or mask[row]) and row not in banned}
    wanted = Wanted(beam, n, mask, np.array(banned, np.int64))
    search = Search(tree(space), space, RUNNER, USERS[:1])
    ((found, p),) = search.best([wanted])
    assert found.tolist() == plain_beam(USERS[0], rows, may, beam, n)
    assert len(found) == min(n, len(may))
    expected = plain_p(USERS[0], rows) if rows else {}
    np.testing.assert_allclose(p.values, [expected[row] for row in p.rows.tolist()], rtol=1e-4)


def test_users_are_searched_together_as_alone() -> None:
    space = space_of()
    masks = [None, RANDOM.random(ITEMS) < 0.5, None, RANDOM.random(ITEMS) < 0.2, RANDOM.random(ITEMS) < 0.05]
    wanted = [
        Wanted(2 + number, 3 + number, mask, RANDOM.integers(0, ITEMS, number)) for number, mask in enumerate(masks)
    ]
    together = Search(tree(space), space, RUNNER, USERS).best(wanted)
    for user, of, (rows, p) in zip(USERS, wanted, together, strict=True):
        ((alone, own),) = Search(tree(space), space, RUNNER, user[None]).best([of])
        np.testing.assert_array_equal(rows, alone)
        np.testing.assert_array_equal(p.values, own.values)


def test_probabilities_of_all_items_add_up_to_what_exists() -> None:
    space = space_of()
    of = tree(space)
    search = Search(of, space, RUNNER, USERS)
    places = np.arange(ITEMS)
    p = search.probabilities(np.zeros(ITEMS, np.int64), places)
    expected = plain_p(USERS[0], list(range(ITEMS)))
    np.testing.assert_allclose(p, [expected[row] for row in of.rows.tolist()], rtol=1e-4)
    # Every id of the tiny code book exists here, so that nothing is lost.
    assert len(of.levels[-1].code) == CODES**LEVELS
    assert p.sum() == pytest.approx(1.0, abs=1e-5)


def test_equal_ids_are_in_the_order_of_rows() -> None:
    of = tree(space_of())
    keys = (of.codes * CODES ** np.arange(LEVELS)[::-1]).sum(axis=1)
    assert (np.diff(keys) >= 0).all()
    assert (np.diff(of.rows)[np.diff(keys) == 0] > 0).all()
    np.testing.assert_array_equal(of.place_of[of.rows], np.arange(ITEMS))


def test_an_empty_catalogue_gives_nothing() -> None:
    space = space_of(np.zeros(ITEMS, np.bool_))
    ((rows, p),) = Search(tree(space), space, RUNNER, USERS[:1]).best([Wanted(10, 5, None, NONE)])
    assert not len(rows)
    assert not len(p.rows)
