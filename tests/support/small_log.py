"""A made-up dataset in RecBole's files: users of two tastes, ties in time, a cold user and a cold item."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ITEMS = 40
_WORDS = (("space", "robot", "alien", "star"), ("love", "wedding", "paris", "dance"))


def write_small_log(folder: Path, *, users: int = 30, seed: int = 5) -> Path:
    """Write `small.inter` and `small.item`: even users like even items, odd ones odd items."""
    rng = np.random.default_rng(seed)
    titles = [" ".join(rng.choice(_WORDS[item % 2], 3)) for item in range(ITEMS)]
    lines = [f"{item}\t{title}\t{('Drama', 'Comedy')[item % 2]}" for item, title in enumerate(titles)]
    (folder / "small.item").write_text("\n".join(["item_id:token\ttitle:token_seq\tclass:token_seq", *lines]) + "\n")
    rows = []
    for user in range(users):
        taste = np.arange(user % 2, ITEMS - 2, 2)
        start = 1_000_000 + 100 * user
        for place, item in enumerate(rng.choice(taste, int(rng.integers(5, 12)), replace=False)):
            # Two at a time, so that most last interactions are tied.
            rows.append(f"{user}\t{item}\t{rng.integers(1, 6)}\t{start + 100 * (place // 2)}")
    rows += [f"late\t{item}\t5\t9000000" for item in (0, 2, ITEMS - 1)]
    (folder / "small.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\trating:float\ttimestamp:float", *rows]) + "\n"
    )
    return folder
