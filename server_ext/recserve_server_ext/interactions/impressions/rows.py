"""Rows of the impression log: from slates to rows, and the statements that write, read and trim them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from recserve_client.contract import LoggedAnswer, Slate
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.experiments import Experiment, version_of
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.interactions.erasure import Mark, erased_since
from recserve_server_ext.interactions.tables import answers, experiments, users
from recserve_server_ext.interactions.writes import drop_empty, numbers_of

#: Most rows that one transaction removes.
_TRIMMED: Final = 5000
#: Most rows that one statement inserts; a power of two.
_INSERTED: Final = 256
_COLUMNS: Final = tuple(column.name for column in answers.c if column.name != "number")
_VALUES: Final = itemgetter(*_COLUMNS)


class Line(msgspec.Struct, frozen=True, eq=False):
    """An answer that waits to be written.

    Attributes:
        slate: The answer without its items, which may have thousands of contributions each.
        items: Ids of its items.
        propensities: Propensity of each item, where it is known.
        pseudonym: Pseudonym of the user; `None` where the request named no user.
        time_us: Microseconds since 1970.
        sampling: Share of such answers that is logged.
        keys: Fingerprint of the ring that made the pseudonym.
    """

    slate: Slate
    items: list[str]
    propensities: list[float | UnsetType]
    pseudonym: str | None
    time_us: int
    sampling: float
    keys: str = ""

    @classmethod
    def of(cls, slate: Slate, pseudonym: str | None, time_us: int, sampling: float, keys: str) -> Line:
        """The line of an answer."""
        ids, propensities = [item.id for item in slate.items], [item.propensity for item in slate.items]
        head = replace(slate, items=[], history=UNSET)
        return cls(head, ids, propensities, pseudonym, time_us, sampling, keys)


def row_of(line: Line) -> dict[str, Any]:
    """The columns of an answer, with the pseudonym in place of the user's number."""
    slate = line.slate
    propensities = [1.0 if propensity is UNSET else propensity for propensity in line.propensities]
    assigned = [] if slate.experiments is UNSET else slate.experiments
    return {
        "recommendation_id": slate.recommendation_id,
        "user": line.pseudonym,
        "time_us": line.time_us,
        "strategy": slate.strategy,
        "variants": _json({f"{of.experiment}@{of.version}": of.variant for of in assigned}),
        "forced": any(of.forced for of in assigned),
        "sampling": line.sampling,
        "size": len(line.items),
        "recommended": _json(line.items),
        "propensities": None if set(propensities) <= {1.0} else _json(propensities),
        "revision": slate.revision,
        "encoder": slate.encoder,
        "rules": None if slate.history_rules is UNSET else slate.history_rules,
    }


def write(
    connection: sa.Connection, rows: Sequence[dict[str, Any]], limits: InteractionLimits, now_us: int, mark: Mark
) -> None:
    """Write rows from `row_of`, without those of users that were erased since."""
    if not rows:
        return
    # Only tombstones that may concern these answers: a mark for every user would cost as much as writing them.
    erased_us = erased_since(connection, min(row["time_us"] for row in rows), now_us)

    def is_erased(row: dict[str, Any]) -> bool:
        return row["user"] is not None and row["time_us"] <= erased_us.get(mark(row["user"]), -1)

    kept = [row for row in rows if not is_erased(row)] if erased_us else rows
    number_of = numbers_of(connection, {row["user"] for row in kept} - {None}, limits)
    _insert(connection, [{**row, "user": number_of.get(row["user"])} for row in kept])


def note_experiments(connection: sa.Connection, served: Sequence[Experiment], now_us: int) -> None:
    """Remember the weights of new versions of experiments, so that a report can compare with them."""
    known = {tuple(row) for row in connection.execute(sa.select(experiments.c.name, experiments.c.version))}
    for experiment in served:
        version = version_of(experiment)
        if (experiment.name, version) not in known:
            weights = _json({variant.name: variant.weight for variant in experiment.variants})
            row = {"name": experiment.name, "version": version, "first_us": now_us, "weights": weights}
            connection.execute(sa.insert(experiments), row)


def trim(connection: sa.Connection, limits: InteractionLimits, now_us: int) -> int:
    """Remove the oldest answers past the limits, at most 5,000; how many went."""
    newest = connection.execute(sa.select(sa.func.max(answers.c.number))).scalar_one()
    if newest is None:
        return 0
    oldest = sa.select(answers.c.number, answers.c.time_us).order_by(answers.c.number).limit(_TRIMMED).subquery()
    past = oldest.c.number <= newest - limits.answers
    if limits.answers_max_age_s is not None:
        past |= oldest.c.time_us < now_us - round(limits.answers_max_age_s * MICROSECONDS)
    last = connection.execute(sa.select(sa.func.max(oldest.c.number)).where(past)).scalar_one()
    if last is None:
        return 0
    which = answers.c.number <= last
    answered = list(connection.execute(sa.select(answers.c.user).distinct().where(which)).scalars())
    gone = connection.execute(sa.delete(answers).where(which)).rowcount
    drop_empty(connection, users.c.number.in_(answered))
    return gone


def answers_of(connection: sa.Connection, pseudonym: str) -> list[dict[str, Any]]:
    """All logged answers of a user in their order, as the given fields of `LoggedAnswer`."""
    query = sa.select(answers).join_from(answers, users, answers.c.user == users.c.number)
    found = connection.execute(query.where(users.c.pseudonym == pseudonym).order_by(answers.c.number))
    fields = LoggedAnswer.__struct_fields__
    logged = []
    for row in found.mappings():
        known = {name: row[name] for name in fields if row.get(name) is not None}
        known |= {"timestamp": row["time_us"] / MICROSECONDS, "items": msgspec.json.decode(row["recommended"])}
        known["experiments"] = msgspec.json.decode(row["variants"])
        if row["propensities"] is not None:
            known["propensities"] = msgspec.json.decode(row["propensities"])
        logged.append(msgspec.to_builtins(msgspec.convert(known, LoggedAnswer)))
    return logged


def _insert(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows whose values need no conversion.

    Straight through the driver and many in a statement. After every statement the thread has to win the interpreter
    lock back from the threads that answer requests. That takes up to 5 ms, and other writers wait meanwhile.
    """
    start = 0
    while start < len(rows):
        # Powers of two: a statement of each length is prepared anew and kept by the connection, so few lengths.
        count = min(1 << (len(rows) - start).bit_length() - 1, _INSERTED)
        values = tuple(chain.from_iterable(map(_VALUES, rows[start : start + count])))
        connection.exec_driver_sql(_statement(connection.dialect.name, count), values)
        start += count


@cache
def _statement(dialect: str, rows: int) -> str:
    mark = "?" if dialect == "sqlite" else "%s"
    row = f"({', '.join([mark] * len(_COLUMNS))})"
    names = ", ".join(f'"{name}"' for name in _COLUMNS)
    return f"INSERT INTO {answers.name} ({names}) VALUES {', '.join([row] * rows)}"


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic" if isinstance(value, dict) else None).decode()
