"""Simulated users of a server over the films, to try experiments on before there are real users.

Run as ``python -m recserve_benchmarks.recommend.simulated_users --users 1500``. What they do is made up here, so a
report about them says nothing about real people.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final

import numpy as np
import typer

from recserve_client import Client, ClientOptions, NewInteraction, interaction, item

#: Probability that a user looks at a position after having looked at the one before.
LOOKS: Final = 0.85
#: Probability of a click on a film that is looked at, by whether it is of the genre of the user's mood.
CLICKS: Final = {True: 0.3, False: 0.04}
#: Probability of a like after a click, likewise.
LIKES: Final = {True: 0.3, False: 0.1}
#: Films of each genre that a user watched a day ago.
WATCHED: Final = 4
#: A genre with fewer films is nobody's taste.
_LEAST_FILMS: Final = 100


def live(client: Client, user_id: str, visits: int, films_of: dict[str, list[str]], random: np.random.Generator) -> int:
    """Let one user, who likes two genres and is in the mood for one of them, visit; the number of clicks.

    The user has watched films of both genres. A visit starts at a film of the mood, and goes on to what is recommended.

    Args:
        client: Of a server over the films.
        user_id: Of a new user.
        visits: How many.
        films_of: Films by genre.
        random: Draws what the user likes and does.
    """
    mood, other = random.choice(list(films_of), 2, replace=False).tolist()
    watched = [film for genre in (mood, other) for film in random.choice(films_of[genre], WATCHED, replace=False)]
    start = time.time() - 86_400
    past = enumerate(random.permutation(watched).tolist())
    client.interactions.record(
        [interaction(user_id, "view", film, timestamp=start + 60 * n, duration_s=6000.0) for n, film in past]
    )
    clicks = 0
    for _ in range(visits):
        session = [item(str(random.choice(films_of[mood])))]
        found = client.recommend_for(user_id, session=session, k=10, explain=False)
        done: list[NewInteraction] = []
        for recommended in found.items:
            if random.random() > LOOKS:
                break
            fits = recommended.id in films_of[mood]
            if random.random() < CLICKS[fits]:
                clicks += 1
                kinds = ["click", "like"] if random.random() < LIKES[fits] else ["click"]
                named = found.recommendation_id
                done += [interaction(user_id, kind, recommended.id, recommendation_id=named) for kind in kinds]
        if done:
            client.interactions.record(done)
    return clicks


def main(
    address: Annotated[str, typer.Option(help="host:port of the server.")] = "127.0.0.1:8001",
    users: int = 1000,
    visits: Annotated[int, typer.Option(help="Visits of each user.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of what the users draw.")] = 0,
) -> None:
    """Let simulated users visit a server over the films."""
    films_of: dict[str, list[str]] = {}
    with Client(address, ClientOptions(deadline_s=60)) as client, ThreadPoolExecutor(4) as threads:
        after = ""
        while True:
            page = client.items.list(after=after, limit=1000)
            for film in page.items:
                for genre in film.attributes.get("genre") or []:
                    films_of.setdefault(genre, []).append(film.id)
            if not (after := page.next):
                break
        common = {genre: films for genre, films in sorted(films_of.items()) if len(films) >= _LEAST_FILMS}
        clicks = threads.map(
            lambda n: live(client, f"simulated-{seed}-{n}", visits, common, np.random.default_rng([seed, n])),
            range(users),
        )
        typer.echo(f"{users:,} simulated users, {users * visits:,} visits, {sum(clicks):,} clicks")


if __name__ == "__main__":
    typer.run(main)
