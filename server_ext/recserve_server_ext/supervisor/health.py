"""Telling a model that is stuck from one that is only busy; the clock is given, so that nothing here waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recserve_client.contract import models as names

#: Whom a model asks before it can answer: while they are late it is late through no fault of its own.
ASKS: Mapping[str, Collection[str]] = {
    names.RECOMMEND: (names.ENCODER,),
    names.EMBED: (names.ENCODER,),
    names.RECOMMEND_TEXT: (names.TOKENIZE, names.ENCODER, names.POOL, names.RECOMMEND),
}


class Health:
    """When each model was last known to work.

    A model works when it answers its probe, or answers anybody else meanwhile, or waits for a model that is late itself
    (that one is judged by its own answers).
    """

    def __init__(self, models: Collection[str], now_s: float, *, limit_s: float) -> None:
        """Take all models for working.

        Args:
            models: Their names.
            now_s: Of a monotonic clock.
            limit_s: A model that did not work for longer is stuck.
        """
        self._limit_s = limit_s
        self._worked = dict.fromkeys(models, now_s)
        self._finished: dict[str, int] = {}

    def update(self, late: Collection[str], finished: Mapping[str, int], now_s: float) -> None:
        """Take in one round of probes.

        Args:
            late: Models that did not answer theirs.
            finished: Requests that each model has answered well since the server started, probes included; what is
                left out did not change.
            now_s: Of the same clock.
        """
        for model in self._worked:
            count = finished.get(model, self._finished.get(model, 0))
            grew = count > self._finished.get(model, count)
            self._finished[model] = count
            if model not in late or grew or any(asked in late for asked in ASKS.get(model, ())):
                self._worked[model] = now_s

    def stuck(self, now_s: float) -> list[str]:
        """Models that did not work for longer than the limit."""
        return [model for model, worked in self._worked.items() if now_s - worked > self._limit_s]
