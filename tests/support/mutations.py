"""Mutated requests: valid ones to every model, changed at random in their values, their bytes or their tensors.

The request of a number is always the same, so that one that does harm can be sent again.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from support.wire import RawTensor, element

_FILTER: Final = {
    "op": "and",
    "of": [{"op": "range", "attribute": "year", "ge": 1950}, {"op": "exists", "attribute": "genre"}],
}
#: Valid requests by model; `ITEM` stands for the id of an item.
_VALID: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    ("recommend", {"history": [{"item": "ITEM"}, {"text": "a heist", "weight": -0.5}], "k": 5, "fields": ["title"]}),
    (
        "recommend",
        {"history": [{"item": "ITEM", "weight": 2}], "where": _FILTER, "count": True, "walk": {"items": ["ITEM"]}},
    ),
    (
        "recommend",
        {
            "history": [{"item": "ITEM"}],
            "k": 8,
            "slate": {
                "diversify": 0.3,
                "groups": [{"attribute": "genre", "at_most": 2}],
                "boosts": [{"kind": "recency", "attribute": "year", "half_life": 10, "weight": 0.1, "now": 2020}],
                "pins": [{"item": "ITEM", "place": 2}],
                "bury": [{"where": _FILTER}],
                "quotas": [{"where": _FILTER, "at_least": 1}],
            },
        },
    ),
    ("recommend", {"history": [{"item": "ITEM"}, {"text": "war"}], "interests": 3, "page": {"size": 3}, "k": 9}),
    (
        "recommend",
        {"history": [{"item": "ITEM"}], "explore": {"kind": "thompson", "at_most": 0.5, "pool": 9, "seed": 1}},
    ),
    (
        "recommend",
        {"user_id": "ann", "session": [{"item": "ITEM"}], "mix": 0.3, "stated": ["space"], "context": {"device": "tv"}},
    ),
    (
        "recommend",
        {"user_id": "bob", "strategy": "blend", "options": {"prior": 2, "by": "rank"}, "allow_repeat": ["view"]},
    ),
    (
        "recommend",
        {"history": [{"item": "ITEM"}], "strategy": "popular", "on_cold": "fallback", "on_unknown": "ignore"},
    ),
    ("recommend_text", {"history": [{"text": "a heist"}, {"text": "war", "weight": 2}], "k": 3}),
    ("embed", {"texts": ["a heist", "war"]}),
    ("items", {"op": "get", "ids": ["ITEM"], "vectors": True}),
    ("items", {"op": "list", "after": "", "limit": 5}),
    ("items", {"op": "upsert", "items": [{"id": "new", "texts": {"title": "a film"}, "attributes": {"year": 1999}}]}),
    ("items", {"op": "delete", "items": [{"id": "nobody's"}]}),
    (
        "interactions",
        {
            "op": "record",
            "interactions": [{"user_id": "ann", "type": "view", "item": "ITEM", "timestamp": 1.7e9, "event_id": "e"}],
        },
    ),
    ("interactions", {"op": "history", "user_id": "ann"}),
    ("interactions", {"op": "export", "user_id": "ann"}),
    ("interactions", {"op": "erase", "user_id": "carl"}),
)
_ODD: Final[Sequence[Any]] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**40, 1e308, -0.0, 5e-324, 0.5, float("nan"),
    float("inf"), "", " ", "\x00", "\ud800", "x" * 5000, "ITEM", "<script>alert(1)</script>", "../../../etc/passwd",
    "' OR 1=1 --", "{{7*7}}", "%s%n", "\u202e", "é" * 300, [], {}, [[]], {"": ""}, [None] * 2000, ["a"] * 300,
)  # fmt: skip
_TYPES: Final = ("BYTES", "FP32", "INT64", "BOOL", "FP16", "", "STRING")
#: Levels of a value that is nested deeply, and levels that are looked into for a place to change.
_DEEP, _LOOKED_INTO = 100, 8


class Mutated(NamedTuple):
    """A request.

    Attributes:
        model: Name of the model.
        tensors: What is sent to it.
    """

    model: str
    tensors: list[RawTensor]


def mutated(number: int, item: str, seed: int = 0) -> Mutated:
    """The request of a number; `item` is the id of an item."""
    chance = random.Random(f"{seed} {number}")
    model, valid = chance.choice(_VALID)
    if chance.random() < 0.02:
        model = chance.choice(["tokenize", "pool", "encoder", "sequence", "", "x" * 300, "recommend/../items"])
    value = json.loads(json.dumps(valid).replace("ITEM", item))
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        value = _changed(value, chance)
    raw = json.dumps(value).encode()
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        raw = _bytes(raw, chance)
    if chance.random() < 0.9:
        return Mutated(model, [("request", "BYTES", (1, 1), element(raw))])
    return Mutated(model, _tensors(raw, chance))


def _changed(value: Any, chance: random.Random) -> Any:
    """A JSON value with one change somewhere within."""
    places = list(_places(value))
    if not places or chance.random() < 0.02:
        return _odd(chance)
    container, key = chance.choice(places)
    change = chance.randrange(7)
    if change == 0:
        del container[key]
    elif change == 1:
        container[key] = [copy.deepcopy(container[key]) for _ in range(chance.choice([2, 50, 400]))]
    elif change == 2:
        container[key] = {"x": container[key]}
    elif change == 3 and isinstance(container, dict):
        container[chance.choice(["x", "K", "__class__", key + " ", "k", "where", "history", "op"])] = _odd(chance)
    elif change == 4:
        _, other = chance.choice(places), chance.choice(places)
        container[key] = copy.deepcopy(other[0][other[1]])
    else:
        container[key] = _odd(chance)
    return value


def _places(value: Any, levels: int = _LOOKED_INTO) -> list[tuple[Any, Any]]:
    """Each container within a value, and each of its keys."""
    if not levels:
        return []
    if isinstance(value, dict):
        own: list[tuple[Any, Any]] = [(value, key) for key in value]
    elif isinstance(value, list):
        own = [(value, place) for place in range(min(len(value), 20))]
    else:
        return []
    return own + [place for container, key in own for place in _places(container[key], levels - 1)]


def _odd(chance: random.Random) -> Any:
    if chance.random() < 0.03:
        deep: Any = 1
        for _ in range(_DEEP):
            deep = [deep] if chance.random() < 0.5 else {"of": deep, "op": "not"}
        return deep
    return copy.deepcopy(chance.choice(_ODD))


def _bytes(raw: bytes, chance: random.Random) -> bytes:
    """Bytes with one change."""
    if not raw:
        return raw
    place = chance.randrange(len(raw))
    changes: Sequence[Callable[[], bytes]] = (
        lambda: raw[:place],
        lambda: raw[:place] + bytes([raw[place] ^ (1 << chance.randrange(8))]) + raw[place + 1 :],
        lambda: raw[:place] + chance.randbytes(chance.choice([1, 4, 100])) + raw[place:],
        lambda: raw + raw[place:],
        lambda: raw[place:] + raw[:place],
        lambda: b"\xef\xbb\xbf" + raw,
        lambda: raw[:place] + b"\xc3\x28\xf0\x9f" + raw[place:],
        lambda: b"",
    )
    return chance.choice(changes)()


def _tensors(raw: bytes, chance: random.Random) -> list[RawTensor]:
    """Tensors that are not as the models want them."""
    sent = element(raw)
    shapes = ((1,), (1, 1), (0, 1), (2, 1), (1, 2), (-1, 1), (1, 2**40), (2**31, 1), (1, 1, 1), (), (64, 1))
    name = chance.choice(["request", "request", "request", "response", "", "x", "READY", "input_ids"])
    content = chance.choice([sent, sent[:3], sent[4:], sent + b"x", b"", b"\xff\xff\xff\xff" + raw, sent + sent])
    tensor = (name, chance.choice(_TYPES), chance.choice(shapes), content)
    return [tensor] * chance.choice([0, 1, 1, 1, 2])
