"""Weighs the comments of profiles: texts about items, whose sentiment multiplies the weight of the item."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.history.sentiment import Sentiment
from recserve_server_ext.recommend.job import Job


def weigh_comments(jobs: Sequence[Job], vector_of: Mapping[str, Vectors]) -> None:
    """Multiply the weights of commented behaviours by the factors of their comments, as far as these have vectors.

    A change of the index between two batches brings another classifier: each job keeps the one it began with.
    """
    groups: dict[int, list[tuple[Job, int, Vectors]]] = defaultdict(list)
    classifiers: dict[int, Sentiment] = {}
    for job in jobs:
        if job.query is None or job.sentiment is None:
            continue
        for position, text in job.profile.comments.items():
            if (vector := vector_of.get(text)) is not None:
                groups[id(job.sentiment)].append((job, position, vector))
                classifiers[id(job.sentiment)] = job.sentiment
    factors: dict[int, dict[int, float]] = defaultdict(dict)
    for key, found in groups.items():
        verdicts = classifiers[key].verdicts(np.stack([vector for _, _, vector in found]))
        for (job, position, _), factor in zip(found, verdicts.factor.tolist(), strict=True):
            factors[id(job)][position] = factor
    for job in jobs:
        if own := factors.get(id(job)):
            job.weigh(own)
