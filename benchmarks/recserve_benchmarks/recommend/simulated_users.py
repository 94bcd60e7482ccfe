"""Simulated users of a server over the films, to try experiments on before there are real ones.

Run as ``python -m recserve_benchmarks.recommend.simulated_users``. What they do is made up here, so what a report
says of them is true of this page and of nobody else.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from recserve_client import Client, ClientOptions, NewInteraction, interaction, item

#: A user looks at a position with this probability, if there was a look at the one before.
LOOKS: Final = 0.85
#: A film that is looked at is clicked with this probability, by whether it is of the genre of the user's mood.
CLICKS: Final = {True: 0.3, False: 0.04}
#: A film that was clicked is liked with this probability, likewise.
LIKES: Final = {True: 0.3, False: 0.1}
#: Films of each genre that a user has watched before.
WATCHED: Final = 4
_WATCHED_S: Final = 6000.0
_GENRE: Final = "genre"
#: Genres with fewer films are nobody's taste.
_LEAST_FILMS: Final = 100
_AT_ONCE: Final = 4
_K: Final = 10
_DEADLINE_S: Final = 60.0


def genres_of(client: Client) -> dict[str, list[str]]:
    """Genres of every film of the catalogue by its id."""
    found: dict[str, list[str]] = {}
    after = ""
    while True:
        page = client.items.list(after=after, limit=1000)
        found |= {film.id: film.attributes.get(_GENRE) or [] for film in page.items}
        if not (after := page.next):
            return found


class SimulatedUser:
    """Likes two genres, and is in the mood for one of them."""

    def __init__(self, number: int, seed: int, films_of: dict[str, list[str]]) -> None:
        """
        Args:
            number: Of the user.
            seed: Of what is drawn.
            films_of: Films by genre.
        """
        self._random = np.random.default_rng([seed, number])
        self._films_of = films_of
        self.user_id = f"simulated-{seed}-{number}"
        self._tastes = self._random.choice(list(films_of), 2, replace=False).tolist()
        self._mood = self._tastes[0]

    def past(self) -> list[NewInteraction]:
        """What the user watched before, of both genres, a day ago."""
        films = [film for genre in self._tastes for film in self._drawn(genre, WATCHED)]
        self._random.shuffle(films)
        start = time.time() - 86_400
        return [
            interaction(self.user_id, "view", film, timestamp=start + 60 * n, duration_s=_WATCHED_S)
            for n, film in enumerate(films)
        ]

    def visit(self, client: Client, genres: dict[str, list[str]]) -> int:
        """One visit: a film of the mood is looked at, then what is recommended; the number of clicks."""
        (looked_at,) = self._drawn(self._mood, 1)
        found = client.recommend_for(self.user_id, session=[item(looked_at)], k=_K, explain=False)
        done: list[NewInteraction] = []
        for recommended in found.items:
            if self._random.random() > LOOKS:
                break
            fits = self._mood in genres.get(recommended.id, [])
            if self._random.random() < CLICKS[fits]:
                kinds = ["click", "like"] if self._random.random() < LIKES[fits] else ["click"]
                named = found.recommendation_id
                done += [interaction(self.user_id, kind, recommended.id, recommendation_id=named) for kind in kinds]
        if done:
            client.interactions.record(done)
        return sum(act.type == "click" for act in done)

    def _drawn(self, genre: str, count: int) -> list[str]:
        films: list[str] = self._random.choice(self._films_of[genre], count, replace=False).tolist()
        return films


def simulate(client: Client, *, users: int, visits: int, seed: int) -> int:
    """Let simulated users come and go; the number of their clicks.

    Args:
        client: Of a server over the films.
        users: How many.
        visits: Of each.
        seed: Of what is drawn.

    Raises:
        RecserveError: The server refused, or did not answer.
    """
    genres = genres_of(client)
    films_of: dict[str, list[str]] = {}
    for film, of in genres.items():
        for genre in of:
            films_of.setdefault(genre, []).append(film)
    common = {genre: films for genre, films in sorted(films_of.items()) if len(films) >= _LEAST_FILMS}

    def live(number: int) -> int:
        user = SimulatedUser(number, seed, common)
        client.interactions.record(user.past())
        return sum(user.visit(client, genres) for _ in range(visits))

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return sum(threads.map(live, range(users)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m recserve_benchmarks.recommend.simulated_users", description=__doc__
    )
    parser.add_argument("--address", default="127.0.0.1:8001", help="host:port of the server")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--visits", type=int, default=3, help="of each user")
    parser.add_argument("--seed", type=int, default=0, help="of what the users draw")
    given = parser.parse_args()
    with Client(given.address, ClientOptions(deadline_s=_DEADLINE_S)) as client:
        clicks = simulate(client, users=given.users, visits=given.visits, seed=given.seed)
    sys.stdout.write(f"{given.users:,} simulated users, {given.users * given.visits:,} visits, {clicks:,} clicks\n")


if __name__ == "__main__":
    main()
