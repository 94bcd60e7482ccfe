from __future__ import annotations

from pathlib import Path

from recserve_console.audit import Audit


def test_the_newest_entries_come_first(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    assert audit.newest(5) == []
    for place in range(4):
        audit.write("item.delete", f"item-{place}")
    audit.write("item.change", "item\n{}", "conflict")
    assert [(entry.what, entry.outcome) for entry in audit.newest(2)] == [("item\n{}", "conflict"), ("item-3", "done")]


def test_a_second_process_adds_to_the_file_and_others_cannot_read_it(tmp_path: Path) -> None:
    Audit(tmp_path).write("item.delete", "first")
    Audit(tmp_path).write("item.delete", "second")
    assert [entry.what for entry in Audit(tmp_path).newest(9)] == ["second", "first"]
    assert (tmp_path / "console" / "audit.jsonl").stat().st_mode & 0o077 == 0
