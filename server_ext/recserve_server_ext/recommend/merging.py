"""Merges the candidate lists of a job into one ranked list."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.recommend.interests import sainte_lague
from recserve_server_ext.recommend.job import Job
from recserve_server_ext.recommend.query import boosts_of, pinned_rows
from recserve_server_ext.slate.maker import SlateSpec


def merged(job: Job) -> tuple[SlateSpec, Ints]:
    """Merge a job's lists by score, or interleaved in proportion to the shares of interest clusters.

    Returns:
        The slate to make of the candidates, and [candidates] the position of the list that each comes from.
    """
    lists, options, pins = job.lists, job.options or SlateOptions(), pinned_rows(job)
    lengths = [len(candidate_list.candidates.rows) for candidate_list in lists]
    rows = np.concatenate([candidate_list.candidates.rows for candidate_list in lists])
    source = np.repeat(np.arange(len(lists)), lengths)
    scores = np.concatenate([candidate_list.scores for candidate_list in lists])
    boosts = boosts_of(job, rows)
    if boosts is not None:
        scores = scores + boosts.sum(axis=1)
    if options.min_score is not None:
        is_kept = (scores >= options.min_score) | np.isin(rows, pins[pins >= 0])
        rows, source, scores = rows[is_kept], source[is_kept], scores[is_kept]
    values = scores
    if len(lists) > 1:
        values = np.empty(len(rows))
        members = [np.flatnonzero(source == number) for number in range(len(lists))]
        keys = sainte_lague([len(positions) for positions in members], job.cluster_shares)
        for positions, key in zip(members, keys, strict=True):
            values[positions[np.argsort(-scores[positions], kind="stable")]] = -key
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(rows[order], return_index=True)
    order = order[np.sort(first)]
    # Boosts and the minimum score are applied to the candidates already.
    options = replace(options, boosts=[], min_score=None)
    return SlateSpec(options, job.wanted, job.rules, pins, rows[order], values[order]), source[order]
