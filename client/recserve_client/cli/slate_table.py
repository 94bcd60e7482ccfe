"""Formats a slate as a table: items, scores, rules and the reasons of each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import UNSET
from rich.markup import escape
from rich.table import Table

from recserve_client.cli.console import out
from recserve_client.contract import Behaviour, Slate, SlateItem
from recserve_client.results import reasons

_REASONS = 3
_WIDTH = 100
_FIELD = 12
_TITLE = "title"


def label(behaviour: Behaviour, names: Mapping[str, str]) -> str:
    """Label of a behaviour: an item's name or else its id; a text in quotes."""
    if behaviour.item is not None:
        return names.get(behaviour.item, behaviour.item)
    return f'"{behaviour.text}"' if behaviour.text is not None else "(vector)"


def title_of(recommended: SlateItem) -> str:
    """The item's title, where it was requested and exists."""
    title = recommended.fields.get(_TITLE) if recommended.fields is not UNSET else None
    return str(title) if title is not None else ""


def slate_table(slate: Slate, history: Sequence[Behaviour], names: Mapping[str, str] | None = None) -> Table:
    """A table of at most 100 columns.

    Args:
        slate: The slate.
        history: History of the request.
        names: Titles of the items of the history, by id.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, width=min(_WIDTH, out.width))
    table.add_column("", justify="right", no_wrap=True)
    field_names = _field_names(slate)
    has_title = _TITLE in field_names
    if has_title:
        table.add_column("title", ratio=4)
    # Ids are for copying: a long one is folded, not cut.
    table.add_column("id", overflow="fold", max_width=24)
    extra = [name for name in field_names if name != _TITLE]
    for name in extra:
        table.add_column(escape(name), ratio=1, width=_width(name, slate), overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    has_rules = any(item.boosts or item.rules for item in slate.items)
    if has_rules:
        table.add_column("rules", ratio=2, overflow="fold")
    has_parts = any(item.parts for item in slate.items)
    if has_parts:
        table.add_column("parts", ratio=3)
    table.add_column("why", ratio=6)
    for rank, recommended in enumerate(slate.items, 1):
        fields = recommended.fields if recommended.fields is not UNSET else {}
        why = _signed(_reasons(recommended, history, names or {})[:_REASONS]) or escape(_facts(recommended))
        title = [escape(title_of(recommended))] if has_title else []
        cells = [escape(_shown(fields.get(name))) for name in extra]
        rules = [_rules(recommended)] if has_rules else []
        parts = [_signed(list((recommended.parts or {}).items()))] if has_parts else []
        score = f"{recommended.score:.3f}"
        table.add_row(str(rank), *title, escape(recommended.id), *cells, score, *rules, *parts, why)
    return table


def _rules(recommended: SlateItem) -> str:
    """The values of the boosts, and the rules that moved the item."""
    boosts = recommended.boosts if recommended.boosts is not UNSET else []
    rules = recommended.rules if recommended.rules is not UNSET else []
    return ", ".join([*(f"{boost:+.2f}" for boost in boosts), *map(escape, rules)])


def _signed(named: Sequence[tuple[str, float]]) -> str:
    """Coloured values with their names."""
    return ", ".join(
        f"[{'green' if value >= 0 else 'red'}]{value:+.2f}[/] {escape(_short(name))}" for name, value in named
    )


def _facts(recommended: SlateItem) -> str:
    """Facts of the strategy about an item, such as its number of users."""
    facts = recommended.facts if recommended.facts is not UNSET else {}
    return ", ".join(f"{name} {value:,g}" for name, value in facts.items() if value is not None)


def _reasons(recommended: SlateItem, history: Sequence[Behaviour], names: Mapping[str, str]) -> list[tuple[str, float]]:
    return [(label(behaviour, names), value) for behaviour, value in reasons(recommended, history)]


def _field_names(slate: Slate) -> list[str]:
    first = slate.items[0].fields if slate.items else UNSET
    return list(first) if first is not UNSET else []


def _width(name: str, slate: Slate) -> int:
    """Smallest width of a field's column: its longest word, within bounds."""
    values = [item.fields.get(name) for item in slate.items if item.fields is not UNSET]
    return min(max(len(word) for shown in (name, *map(_shown, values)) for word in shown.split() or [""]), _FIELD)


def _shown(value: object) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(name: str, width: int = 28) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
