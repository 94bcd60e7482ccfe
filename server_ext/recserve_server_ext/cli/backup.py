"""`recserve backup`: makes, checks, lists, restores and removes backups of a home with its stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from recserve_client.cli.console import explained, fail, note, out, progress
from recserve_client.cli.tables import table
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.units import MIB
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Make, check and restore backups of a home with its stores.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of backups.")]
Backup = Annotated[str, typer.Argument(help="Id of a backup.", show_default="the newest")]
Home = Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")]
KeyFile = Annotated[
    Path | None, typer.Option(help="File with the key: 64 hexadecimal digits.", show_default="RECSERVE_BACKUP_KEY")
]


@app.command()
def create(
    folder: Folder,
    home: Home = DEFAULT_HOME,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, which is kept, too.")] = None,
    key_file: KeyFile = None,
) -> None:
    """Make a backup in FOLDER, also while servers run; prints its id."""
    with explained(ServerError):
        from recserve_server_ext.backup.create import create as make
        from recserve_server_ext.backup.sealing import sealing_by
        from recserve_server_ext.config.server import ServeSettings, read_settings

        settings = ServeSettings() if config is None else read_settings(config)
        files = {"serve.toml": config} if config is not None else {}
        if settings.users.rules:
            files[Path(settings.users.rules).name] = Path(settings.users.rules)
        with _bar("writing") as advance:
            made = make(Workspace(home), settings, folder, sealing_by(key_file), files, advance)
        note(f"{_size(made.bytes)} in all, {_size(made.written)} of that written now")
        typer.echo(made.id)


@app.command()
def verify(folder: Folder, backup: Backup = "", key_file: KeyFile = None) -> None:
    """Read every block of a backup; exit code 1 when it could not be restored."""
    with explained(ServerError):
        from recserve_server_ext.backup.sealing import sealing_by
        from recserve_server_ext.backup.verify import verify as check

        with _bar("reading") as advance:
            manifest, tree = check(folder, backup, sealing_by(key_file), advance)
        note(f"backup {manifest.id} is whole: {len(tree.files):,} files, {_size(manifest.bytes)}")


@app.command()
def restore(
    folder: Folder,
    backup: Backup = "",
    home: Home = DEFAULT_HOME,
    store: Annotated[str, typer.Option(help="Empty PostgreSQL database of the catalogue, where it was in one.")] = "",
    interactions: Annotated[str, typer.Option(help="The same of the interactions.")] = "",
    ledger: Annotated[
        list[Path] | None, typer.Option(help="Ledger of erasures, beside that of FOLDER; repeatable.")
    ] = None,
    key_file: KeyFile = None,
) -> None:
    """Restore a backup into an empty home, and erase again who was erased since."""
    with explained(ServerError):
        from recserve_server_ext.backup.restore import restore as bring_back
        from recserve_server_ext.backup.sealing import sealing_by

        places = {"catalogue": store, "interactions": interactions}
        with _bar("restoring") as advance:
            found = bring_back(folder, backup, sealing_by(key_file), Workspace(home), places, ledger or (), advance)
        note(f"backup {found.manifest.id} is in {home}: {len(found.tree.files):,} files, {_size(found.manifest.bytes)}")
        if found.erased:
            note(f"{found.erased:,} users who were erased since are erased again")
        for model in found.traces:
            note(
                f"{model.name} {model.version} may hold a trace until it is trained again: recserve train {model.name}"
            )
        if found.ring:
            note(f"put the keys of the pseudonyms, {found.ring}, into {Workspace(home).pseudonym_key} before you serve")


@app.command("list")
def list_(folder: Folder) -> None:
    """List the backups, the newest first; nothing is checked."""
    from recserve_server_ext.backup.manifest import kept_backups

    found = kept_backups(folder)
    if not found:
        fail(f"no backup in {folder}; make one with: recserve backup create {folder}")
    rows = []
    for one in reversed(found):
        if one.manifest is None:
            rows.append((one.id, "", "", "", "", "unreadable"))
            continue
        made = f"{datetime.fromtimestamp(one.manifest.created_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}"
        sizes = (_size(one.manifest.bytes), _size(one.manifest.written))
        rows.append((one.id, made, *sizes, one.manifest.key or "none", one.manifest.recserve))
    columns = ("backup", "made (UTC)", "size", "written", "key", "recserve")
    out.print(table(columns, rows, right=("size", "written")))
    for one in found:
        if one.fault:
            note(one.fault)


@app.command()
def prune(
    folder: Folder,
    keep: Annotated[int, typer.Option(min=1, help="How many backups to keep: the newest.")],
) -> None:
    """Remove all but the newest backups, and what no backup needs."""
    with explained(ServerError):
        from recserve_server_ext.backup.verify import prune as remove

        gone, size = remove(folder, keep)
        for backup in gone:
            note(f"removed {backup}")
        note(f"{_size(size)} are free")


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields what tells it of bytes."""
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        before, done = done // MIB, done + size
        bar.advance(TaskID(0), done // MIB - before)

    with progress(f"{what} (MB)", None) as bar:
        yield advance


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
