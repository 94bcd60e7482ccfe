"""Data: the log and the catalogue in numbers, what of them fits together, and what changed since the week before."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from recserve_console.home.catalogue import catalogue_numbers, cut_texts
from recserve_console.home.log import LogNumbers, has_log, log_numbers
from recserve_console.views.parts.import_panel import ImportPanel
from recserve_console.views.parts.pieces import COLOURS, axis, card, chart, heading, moment, muted, table
from recserve_console.views.parts.view import View
from recserve_export.catalogue.stats import CatalogueStats
from recserve_server_ext.access.scopes import Scope


class Data(View):
    """The log and the catalogue; only beside a home."""

    name, title, icon = "data", "Data", "dataset"
    scope = Scope.INTERACTIONS

    async def build(self) -> None:
        """See `View.build`."""
        with ui.row().classes("w-full items-center"):
            heading("Data").classes("grow")
            ui.button("Count again", icon="refresh", on_click=lambda: self._read(again=True)).props("flat")
        self._content = ui.column().classes("w-full gap-3 q-mt-sm")
        ImportPanel(self.console)
        await self._read()

    async def _read(self, *, again: bool = False) -> None:
        home = self.console.home
        assert home is not None
        self._content.clear()
        with self._content:
            log, catalogue = ui.column().classes("w-full gap-3"), ui.column().classes("w-full gap-3")
        if has_log(home):
            await self.count(log, "the log", log_numbers, self._draw_log, again=again)
        await self.count(catalogue, "the catalogue", catalogue_numbers, self._draw_catalogue, again=again)

    def _draw_log(self, found: LogNumbers) -> None:
        stats = found.stats
        about = f"{stats.interactions:,} interactions of {stats.users:,} users with {stats.items:,} items"
        if stats.oldest is not None and stats.newest is not None:
            about += f", from {moment(stats.oldest)} to {moment(stats.newest)} (UTC)"
        with card("Log", about):
            page = self.console.watcher.page
            if page is not None and (named := page.total("recserve_log_interactions")):
                share = page.total("recserve_log_known_interactions") / named
                ui.label(f"{share:.1%} of the counted interactions name an item that the served catalogue has.")
            muted(f"{stats.seen:,} seen items, {stats.answers:,} logged answers, {stats.erased:,} erased users")
            if found.days:
                days = [[day * 86_400_000, count] for day, count in found.days]
                chart(_bars("time", days), "Interactions by day")
        if found.imports:
            with card("Imports of interactions", "The last ones over this home, the newest first."):
                imports = [
                    (moment(one.time), one.name, f"{one.recorded:,}", f"{one.duplicates:,}", _reasons(one.refused))
                    for one in found.imports
                ]
                columns = ("time (UTC)", "source", "recorded", "duplicates", "refused rows by reason")
                table(columns, imports, right=columns[2:4], label="Imports")
        with ui.element("div").classes("grid grid-cols-1 md:grid-cols-2 gap-3 w-full"):
            with card("Last seven days of the log", "Beside the seven days before."):
                rows = [
                    (kind, f"{last:,}", f"{before:,}", _change(last, before))
                    for kind, (last, before) in found.week.items()
                ]
                table(("type", "last", "before", "change"), rows, right=("last", "before", "change"), label="Weeks")
            with card("Activity", "Users by their number of interactions."):
                shown = [[f"{least:,}+", users] for least, users in found.per_user]
                chart(_bars("category", shown), "Users by activity")
                most = ", ".join(f"{own:,}" for own, _ in found.most_active)
                muted(f"The most active have {most}: far more than the others is how bots look.")

    def _draw_catalogue(self, found: CatalogueStats) -> None:
        about = f"{found.items:,} items, of which {found.available:,} may be recommended; revision {found.revision:,}"
        with card("Catalogue", about):
            if (source := found.source) is not None:
                muted(f"Imported from {source.name}: {source.accepted:,} items")
                muted(f"Refused rows: {_reasons(source.refusals)}")
                muted(f"Values that could not be read and were left out, by attribute: {_reasons(source.left_out)}")
            home = self.console.home
            if home is not None and (cut := cut_texts(home)):
                muted(f"Texts, at the last build of the index: {cut}")
            texts = [
                (name, f"{of.weight:g}", _share(of.items, found.items), f"{of.mean_characters:.0f}")
                for name, of in found.texts.items()
            ]
            columns = ("text field", "weight", "items that have it", "mean characters")
            table(columns, texts, right=columns[1:], label="Text fields")
            rows = [
                (name, ", ".join(of.types), _share(of.items, found.items), f"{of.distinct:,}", _most(of.most))
                for name, of in found.attributes.items()
            ]
            headings = ("attribute", "types", "items that have it", "distinct", "most frequent")
            table(headings, rows, right=headings[2:4], label="Attributes")


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items()) or "none"


def _most(most: dict[str, int]) -> str:
    return ", ".join(f"{value[:24]} ({count:,})" for value, count in most.items())


def _share(count: int, whole: int) -> str:
    return f"{count / whole:.1%}" if whole else "0"


def _change(last: int, before: int) -> str:
    return f"{(last - before) / before:+.0%}" if before else "new"


def _bars(kind: str, data: list[list[Any]]) -> dict[str, Any]:
    return {
        "xAxis": axis(type=kind, splitLine={"show": False}),
        "yAxis": axis(type="value", min=0),
        "tooltip": {"trigger": "axis"},
        "series": [{"type": "bar", "data": data, "itemStyle": {"color": COLOURS[0]}, "barMaxWidth": 28}],
    }
