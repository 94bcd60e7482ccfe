"""Codes of the `scan` engine that are taken over: items leave and change their rows, and are not coded again."""

from __future__ import annotations

import faiss
import numpy as np

from recserve_server_ext.common.arrays import Rows


def renumber(index: faiss.IndexIVF, row_of: Rows) -> None:
    """Give the items of an index other rows, in place.

    Args:
        index: faiss `IVF,PQx4fs`, whose ids are rows.
        row_of: [items] new row of each; -1 for those to remove.
    """
    index.remove_ids(np.flatnonzero(row_of < 0))
    lists = faiss.downcast_InvertedLists(index.invlists)
    for number in range(index.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            ids[:] = row_of[ids]
            _clear_after(lists, number, size)


def _clear_after(lists: faiss.BlockInvertedLists, number: int, size: int) -> None:
    """Zero what the last block of a list holds after its items: removing leaves it, and adding combines it by "or"."""
    blocks = -(-size // lists.n_per_block)
    codes = faiss.rev_swig_ptr(lists.get_codes(number), blocks * lists.block_size).reshape(blocks, -1)
    nothing = np.zeros(lists.packer.code_size, np.uint8)
    for place in range(size, blocks * lists.n_per_block):
        lists.packer.pack_1(nothing, place, codes)
