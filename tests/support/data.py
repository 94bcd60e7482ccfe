"""What strategies work on, made by hand."""

from __future__ import annotations

import numpy as np

from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.counts.counts import Counts, no_counts
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.parts.counts_view import CountsView


def data_over(view: View, counts: Counts | None = None) -> Data:
    """A catalogue and, unless counts are given, an empty log."""
    return Data(view, LiveFilters(view).of(view), CountsView(counts or no_counts(), view))


def spec_of(n: int) -> CandidateSpec:
    """So many items, and any."""
    return CandidateSpec(n, np.empty(0, np.int64))
