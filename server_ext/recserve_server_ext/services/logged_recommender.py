"""What happens to an answer once it is packed: it is told its variants, and it is logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from recserve_client.contract import AssignedVariant
from recserve_server_ext.batching.batcher import Answer
from recserve_server_ext.interactions.answer_rows import TEXT
from recserve_server_ext.services.recommend import AnyJob, UserJob, UserRecommender


class Logging(Protocol):
    """Takes answers; see `AnswerLog.offer`."""

    def offer(self, answer: bytes, pseudonym: str | None, strategy: str = TEXT, keys: str = "") -> None:
        """Log an answer, if it is drawn and there is room; returns at once."""
        ...


class LoggedRecommender:
    """A recommender whose answers say their variants and are logged."""

    def __init__(self, recommender: UserRecommender, log: Logging) -> None:
        """
        Args:
            recommender: Answers the requests.
            log: Takes the answers.
        """
        self._answer = recommender.answer
        self._log = log
        self.begin = recommender.begin
        self.accept = recommender.accept
        self.look_up = recommender.look_up
        self.encode = recommender.encode

    def answer(self, jobs: Sequence[AnyJob]) -> list[Answer]:
        """See `UserRecommender.answer`."""
        return [self._finished(job, answer) for job, answer in zip(jobs, self._answer(jobs), strict=True)]

    def _finished(self, job: AnyJob, answer: Answer) -> Answer:
        if not isinstance(answer, bytes):
            return answer
        if not isinstance(job, UserJob):
            self._log.offer(answer, None)
            return answer
        told = _with_variants(answer, job.variants)
        self._log.offer(told, job.pseudonym, job.request.strategy, job.keys)
        return told


def _with_variants(packed: bytes, variants: list[AssignedVariant]) -> bytes:
    """A packed `UserSlate` with its last field, `experiments`: packing it once more would cost more than all else."""
    return b'%s,"experiments":%s}' % (packed[:-1], msgspec.json.encode(variants)) if variants else packed
