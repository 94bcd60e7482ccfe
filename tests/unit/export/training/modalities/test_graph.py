"""Text vectors smoothed over a knowledge graph, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from recserve_export.errors import TrainingError
from recserve_export.training.modalities.graph import read_graph, smoothed

TRIPLES = (
    "head_id:token\trelation_id:token\ttail_id:token\nm.1\tactor\te1\nm.2\tactor\te1\ne2\tmade\tm.1\nm.9\tactor\te2\n"
)
LINKS = "item_id:token\tentity_id:token\na\tm.1\nb\tm.2\nelsewhere\tm.9\n"


def test_smoothing_is_that_of_plain_loops() -> None:
    random = np.random.default_rng(0)
    text = random.normal(size=(12, 5)).astype(np.float32)
    text[3] = 0
    text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-9)
    entities = (random.random((12, 7)) < 0.3).astype(np.float64)
    entities[5] = 0
    found = smoothed(text, sparse.csr_array(entities), 0.5)
    for i in range(12):
        near = np.zeros(5)
        for j in range(12):
            shared = [e for e in range(7) if entities[i, e] and entities[j, e]]
            if i != j:
                near += sum(1 / entities[:, e].sum() ** 0.5 for e in shared) * text[j]
        expected = text[i] + 0.5 * near / max(float(np.linalg.norm(near)), 1e-9)
        expected /= max(float(np.linalg.norm(expected)), 1e-9)
        np.testing.assert_allclose(found[i], expected, atol=1e-5)
    np.testing.assert_allclose(found[5], text[5], atol=1e-6)


def test_entities_are_joined_in_both_directions(tmp_path: Path) -> None:
    triples, links = tmp_path / "x.kg", tmp_path / "x.link"
    triples.write_text(TRIPLES)
    links.write_text(LINKS)
    assert read_graph(triples, links, ["b", "a", "c"]).toarray().tolist() == [[1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("triples", "links", "named"),
    [
        (TRIPLES, "item\tentity\nz\tm.1\n", "no triple"),
        ("a\tb\n1\t2\n", LINKS, "has 2 columns, 3 are needed"),
        ("", LINKS, "cannot be read"),
    ],
)
def test_wrong_graphs_are_refused(tmp_path: Path, triples: str, links: str, named: str) -> None:
    (tmp_path / "x.kg").write_text(triples)
    (tmp_path / "x.link").write_text(links)
    with pytest.raises(TrainingError, match=named):
        read_graph(tmp_path / "x.kg", tmp_path / "x.link", ["a"])
