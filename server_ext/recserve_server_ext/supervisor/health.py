"""Health of the models: tells a stuck model from a busy one. The caller gives the time."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recserve_client.contract import models as names

#: The models that a model asks: while one of these is late, its own lateness is no fault.
ASKS: Mapping[str, Collection[str]] = {
    names.RECOMMEND: (names.ENCODER, names.SEQUENCE, names.GENERATE),
    names.EMBED: (names.ENCODER,),
    names.RECOMMEND_TEXT: (names.TOKENIZE, names.ENCODER, names.POOL, names.RECOMMEND),
}


class Health:
    """When each model was last known to work.

    A model works when it answers its probe or any other request, or while a model that it asks is late.
    """

    def __init__(self, models: Collection[str], now_s: float, *, limit_s: float) -> None:
        """All models work at first; a model that has not worked for longer than `limit_s` is stuck."""
        self._limit_s = limit_s
        self._worked = dict.fromkeys(models, now_s)
        self._finished: dict[str, int] = {}

    def update(self, late: Collection[str], finished: Mapping[str, int], now_s: float) -> None:
        """Take in one round of probes.

        Args:
            finished: Requests that each model has answered well since the server started, with probes; a model that is
                left out has answered no more.
        """
        for model in self._worked:
            count = finished.get(model, self._finished.get(model, 0))
            grew = count > self._finished.get(model, count)
            self._finished[model] = count
            if model not in late or grew or any(asked in late for asked in ASKS.get(model, ())):
                self._worked[model] = now_s

    def stuck(self, now_s: float) -> list[str]:
        """Models that have not worked for longer than the limit."""
        return [model for model, worked in self._worked.items() if now_s - worked > self._limit_s]
