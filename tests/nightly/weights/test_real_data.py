"""The real encoder and the real films: the demo from nothing, and vectors that do not depend on their batch."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from recserve_export.encoder.export import export_encoder
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.demo import Demo, run_demo
from support.served import served
from support.tiny_encoder import LOOSE
from support.wire import Wire

pytestmark = [pytest.mark.triton, pytest.mark.timeout(900)]

Precision = Literal["fp32", "int8"]


def test_the_demo_recommends_films_with_reasons(demo: Demo) -> None:
    _, result, printed = demo
    # What the second scene prints comes from other commands, which have tests of their own.
    printed = printed.partition("Second scene")[0]
    # The second scene is there where the package with MovieLens 100k can be installed.
    assert set(result) - {"movielens"} == {"server", "encoder", "catalogue", "recommendations", "user", "timings_s"}
    assert result["server"]["name"] == "triton"
    assert result["catalogue"]["items"] > 17_000
    assert len(result["recommendations"]) == 3
    for recommendation in result["recommendations"]:
        assert len(recommendation["items"]) == 5
        for item in recommendation["items"]:
            assert set(item["contributions"]) == set(recommendation["history"])
            assert sum(item["contributions"].values()) == pytest.approx(item["score"], abs=1e-5)
            assert item["id"] not in recommendation["history"]
            # A title may be wrapped in its column: look for its first word.
            assert item["title"].split()[0] in printed
    titles = [item["title"] for item in result["recommendations"][0]["items"]]
    assert any("Toy Story" in title for title in titles)
    # All but the one line that says what was read.
    assert max(len(line) for line in printed.splitlines() if not line.startswith("read as: ")) <= 100
    # The user's answer of five films, one of them clicked.
    assert result["user"]["clicked"] == result["user"]["recommended"][0]
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("text ")]
    assert row[1:3] == ["5", "1"]


def test_a_second_demo_reuses_everything(demo: Demo, tmp_path: Path) -> None:
    home, first, _ = demo
    before = {path: path.stat().st_mtime_ns for path in (home / "encoder").rglob("*.onnx")}
    snapshot = (home / "snapshots" / "CURRENT").read_text()
    done = run_demo(home, tmp_path / "again.json")
    assert done.returncode == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["recommendations"] == first["recommendations"]
    assert {path: path.stat().st_mtime_ns for path in (home / "encoder").rglob("*.onnx")} == before
    assert (home / "snapshots" / "CURRENT").read_text() == snapshot


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_vector_does_not_depend_on_its_batch(demo: Demo, tmp_path: Path, precision: Precision) -> None:
    """Over gRPC, mixed concurrent requests: int8 has the same bits every time, fp32 differs by 1e-5 at most."""
    films, home = Workspace(demo.home), Workspace(tmp_path)
    home.encoder.symlink_to(films.encoder.resolve(), target_is_directory=True)
    export_encoder(None, home, precision, settings=LOOSE)
    with CatalogueStore(films.store) as source, CatalogueStore(home.store, create=True) as store:
        items = list(islice(source.items(), 700))
        store.replace_all(items, field_weights=source.head().field_weights)
    build(home, home.encoder / precision, Settings(engine="scan", items_per_list=(256,), users=50))
    texts = [text for item in items[:200] for text in item.texts.values()]
    encoder = TextEncoder(home.encoder / precision)
    alone = {text: encoder.encode([text])[0] for text in texts[::4]}

    def embed(seed: int) -> bool:
        random = np.random.default_rng(seed)
        chosen = random.choice(list(alone), random.integers(1, 40)).tolist()
        answer = wire.ask("embed", {"texts": chosen}, timeout_s=120)
        vectors = np.frombuffer(base64.b64decode(answer["vectors"]), "<f4").reshape(answer["count"], answer["dim"])
        expected = np.stack([alone[text] for text in chosen])
        if precision == "int8":
            return np.array_equal(vectors, expected)
        return bool(np.abs(vectors - expected).max() <= 1e-5)

    with served(home.home, "--precision", precision) as server, ThreadPoolExecutor(16) as threads:
        wire = Wire(server.grpc)
        assert all(threads.map(embed, range(48)))
