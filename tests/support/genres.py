"""A home whose users stay in one genre, and whose texts tell the genre only to who has learned its words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, PSEUDONYMS, event

GENRES, WORDS, OF_GENRE, USERS, EACH = 4, 20, 40, 80, 8


def genre_items(source: Path) -> list[StoredItem]:
    """Items with a title of two words of their genre, and a subtitle of two more."""
    words = [word for word in (source / "vocab.txt").read_text().split() if word.isalpha() and len(word) > 3]
    random = np.random.default_rng(0)
    items = []
    for number in range(GENRES * OF_GENRE):
        genre = number % GENRES
        own = words[genre * WORDS : (genre + 1) * WORDS]
        chosen = random.choice(WORDS, 4, replace=False).tolist()
        texts = [" ".join(own[place] for place in part) for part in (chosen[:2], chosen[2:])]
        items.append(StoredItem(f"i{number}", {"title": texts[0], "subtitle": texts[1]}, {}))
    return items


def genre_events(users: int = USERS, each: int = EACH, days_ago: int = 3) -> list[Interaction]:
    """What users did: each likes items of one genre."""
    random = np.random.default_rng(days_ago)
    return [
        event(
            PSEUDONYMS.of(f"user{user}"),
            f"i{GENRES * place + user % GENRES}",
            type="like",
            timestamp=NOW - 86_400.0 * days_ago + 60.0 * n + user,
        )
        for user in range(users)
        for n, place in enumerate(random.choice(OF_GENRE, each, replace=False).tolist())
    ]


def make_genre_home(
    home: Path, source: Path, events: list[Interaction] | None = None, items: list[StoredItem] | None = None
) -> Workspace:
    """A home with a catalogue and a log."""
    workspace = Workspace(home)
    home.mkdir(parents=True, exist_ok=True)
    with CatalogueStore(workspace.store, create=True) as store:
        store.replace_all(items or genre_items(source), field_weights={"title": 1.0, "subtitle": 0.5})
    with InteractionStore(workspace.interactions, create=True, clock=lambda: NOW) as log:
        found = events if events is not None else genre_events()
        for start in range(0, len(found), 1000):
            log.record(found[start : start + 1000])
    return workspace
