"""Titles in ten languages and scripts: the encoder and a `text_head` are trained on them, and they are searched for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from recserve_export.encoder.checks.reference import Reference
from recserve_export.encoder.export import export_encoder
from recserve_export.encoder.source.folder import read_source
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_export.training.encoder.home import EncoderRequest, Tuned, settings_of, train_encoder
from recserve_export.training.publish import Request, train_home
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Limits
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from support.genres import GENRES, OF_GENRE, make_genre_home
from support.service import Service
from support.tiny_encoder import LOOSE, measured_once
from support.tiny_models import add_modules, make_tiny_model

#: Two words of each genre: love, war, space, music.
WORDS = {
    "English": "love wedding war army space star music song",
    "Russian": "любовь свадьба война армия космос звезда музыка песня",
    "Greek": "αγάπη γάμος πόλεμος στρατός διάστημα αστέρι μουσική τραγούδι",
    "Arabic": "حب زفاف حرب جيش فضاء نجمة موسيقى أغنية",
    "Hebrew": "אהבה חתונה מלחמה צבא חלל כוכב מוזיקה שיר",
    "Hindi": "प्रेम विवाह युद्ध सेना अंतरिक्ष तारा संगीत गीत",
    "Chinese": "爱情 婚礼 战争 军队 太空 星星 音乐 歌曲",
    "Japanese": "れんあい 結婚式 せんそう 軍隊 うちゅう スター おんがく うた",
    "Korean": "사랑 결혼식 전쟁 군대 우주 별 음악 노래",
    "Thai": "ความรัก งานแต่งงาน สงคราม กองทัพ อวกาศ ดวงดาว ดนตรี เพลง",
}


def title(number: int) -> str:
    """Title of an item: a word of its genre, in one language after the other, and a number."""
    genre, place = number % GENRES, number // GENRES
    words = list(WORDS.values())[place % len(WORDS)].split()
    return f"{words[2 * genre + place % 2]} {place // len(WORDS)}"


TITLES = [title(number) for number in range(GENRES * OF_GENRE)]


class Home(NamedTuple):
    """What was trained, and a server of it."""

    tuned: Tuned
    encoder: TextEncoder
    service: Service


class Encoding(Service):
    """Asks the exported encoder."""

    def __init__(self, snapshot: Snapshot, encoder: TextEncoder) -> None:
        super().__init__(snapshot, Limits())
        self.encoder = encoder

    def encode(self, texts: Sequence[str], encoder: str) -> Vectors:
        assert encoder == self.encoder.fingerprint
        return self.encoder.encode(texts)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A byte-level encoder, trained and served with a head over it."""
    folder = tmp_path_factory.mktemp("languages")
    add_modules(make_tiny_model(folder / "tiny", "roberta"), "mean")
    items = [StoredItem(f"i{number}", {"title": text}, {}) for number, text in enumerate(TITLES)]
    workspace = make_genre_home(folder / "home", folder / "tiny", items=items)
    settings = settings_of({"steps": 40, "pairs": 32, "rate": 2e-3, "held_out": 0.2, "head_steps": 20})
    request = EncoderRequest(model=str(folder / "tiny"), settings=settings, keep=-1.0)
    tuned = train_encoder(workspace, workspace.interactions, request)
    with measured_once():
        export_encoder(tuned.model, workspace, settings=LOOSE)
    encoder = choose_encoder(workspace, "auto")
    build(workspace, encoder, Settings(engine="exact"))
    head = {"text_head": {"steps": 50, "batch": 64, "hidden": 32}}
    train_home(workspace, workspace.interactions, Request(names=["text_head"], settings=head))
    loaded = TextEncoder(encoder)
    return Home(tuned, loaded, Encoding(Snapshot.load(current(workspace.snapshots)), loaded))


def test_the_encoder_is_trained_proved_and_exported(home: Home) -> None:
    report = home.tuned.report
    assert report.course.steps == 40
    assert all(np.isfinite(list(system.ndcg.values())).all() for system in report.systems)
    expected = Reference(read_source(home.tuned.model)).vectors(TITLES)
    vectors = home.encoder.encode(TITLES)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_head_over_it_has_a_vector_of_each(home: Home) -> None:
    found = home.service.snapshot.spaces["text_head"].vectors
    assert found.shape == (len(TITLES), home.encoder.manifest.dim)
    assert np.isfinite(found).all()
    assert len(np.unique(found.round(4), axis=0)) == len(TITLES)


@pytest.mark.parametrize("language", WORDS)
def test_a_free_text_finds_the_title(home: Home, language: str) -> None:
    number = GENRES * list(WORDS).index(language)
    history = [{"text": TITLES[number]}]
    first = home.service.ask(history=history, strategy="text", k=1).items[0]
    assert first.id == f"i{number}"
    assert first.score == pytest.approx(1.0, abs=1e-5)
    by_head = home.service.ask(history=history, strategy="text_head", k=10).items
    assert len(by_head) == 10
    assert np.isfinite([one.score for one in by_head]).all()
