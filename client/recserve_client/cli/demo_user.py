"""The last part of `recserve demo`: a user by id, from recorded interactions to the report of outcomes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from recserve_client.cli.console import fail, out

if TYPE_CHECKING:
    from recserve_client.client import Client
    from recserve_client.contract import Slate

#: Films that the user watches, in this order.
_WATCHED: Final = ("tt0076759", "tt0078748", "tt0816692")
_WATCHED_S: Final = 7200.0
_DEADLINE_S: Final = 30.0
_K: Final = 5


def show_user(client: Client, titles: Mapping[str, str], report: Callable[[], None]) -> dict[str, Any]:
    """Record watched films, recommend by user id, click the first film, show the report, and erase the user.

    Returns:
        Ids of the watched, recommended and clicked films, for the JSON file.

    Raises:
        RecserveError: The server refused a request, or did not answer.
    """
    from recserve_client.cli.slate_table import slate_table, title_of
    from recserve_client.results import behaviours_of
    from recserve_client.user_calls import interaction

    # A new user each time, unaffected by earlier demos.
    user = f"demo-{uuid.uuid4().hex[:8]}"
    client.interactions.record([interaction(user, "view", film, duration_s=_WATCHED_S) for film in _WATCHED])
    slate = client.recommend_for(user, k=_K, fields=["title", "year"], deadline_s=_DEADLINE_S)
    named = ", ".join(titles.get(film, film) for film in _WATCHED)
    out.print(f"\n[bold]User {user}, by id, who watched:[/] {named}", highlight=False, soft_wrap=True)
    out.print(slate_table(slate, behaviours_of(slate), titles))
    clicked = slate.items[0]
    click = interaction(user, "click", clicked.id, recommendation_id=slate.recommendation_id)
    client.interactions.record([click])
    _wait_logged(client, user, slate)
    out.print(
        f"\n[bold]The user clicks {title_of(clicked)}; the report of outcomes:[/]", highlight=False, soft_wrap=True
    )
    report()
    receipt = client.users.erase(user)
    out.print(
        f"\nThe user is erased again: {receipt.interactions} interactions and the logged answers.", highlight=False
    )
    return {"watched": list(_WATCHED), "recommended": [item.id for item in slate.items], "clicked": clicked.id}


def _wait_logged(client: Client, user: str, slate: Slate) -> None:
    """Wait until the answer is logged, which happens in the background."""
    deadline = time.monotonic() + _DEADLINE_S
    while not any(answer.recommendation_id == slate.recommendation_id for answer in client.users.export(user).answers):
        if time.monotonic() > deadline:
            fail(f"the answer to the user was not logged within {_DEADLINE_S:.0f} s; see the server's log")
        time.sleep(0.05)
