"""Reads the docstrings of message types: what a message is, and what each of its fields means."""

from __future__ import annotations

import inspect
import textwrap


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """The text of a docstring before its attributes, and what it says of each attribute, each as one line."""
    head, _, tail = inspect.cleandoc(docstring).partition("Attributes:\n")
    meaning_of: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(tail).splitlines():
        if line and not line[0].isspace():
            name, _, meaning_of[name] = line.partition(": ")
        elif name:
            meaning_of[name] += " " + line.strip()
    return head.strip(), {field: text.strip() for field, text in meaning_of.items()}
