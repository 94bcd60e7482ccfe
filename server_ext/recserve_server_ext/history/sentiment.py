"""The sentiment of comments: a logistic regression over text vectors, and the factor of a weight that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.index.model import Model

#: Name of the training, of the trained model, and of the factor.
NAME: Final = "sentiment"


class Verdicts(NamedTuple):
    """What a classifier says of texts.

    Attributes:
        positive: [texts] probability that a text is positive, where as many are positive as negative.
        confidence: [texts] |2 p - 1|: 0 for a text that could be either.
        factor: [texts] factor of a weight: (1 - c) + c f, with the confidence c and the factor f of a text that is
            certainly positive or certainly negative. So a text that says nothing leaves the weight as it is.
    """

    positive: Floats
    confidence: Floats
    factor: Floats


class Sentiment(NamedTuple):
    """A trained classifier of texts; immutable.

    Attributes:
        slope: [dim].
        intercept: Its value for a vector of zeros.
        factors: Factors of texts that are certainly positive, and certainly negative.
    """

    slope: Floats
    intercept: float
    factors: tuple[float, float]

    @classmethod
    def of_model(cls, model: Model) -> Sentiment:
        """The classifier in a trained model."""
        arrays = model.arrays
        high, low = arrays["factors"].tolist()
        return cls(np.array(arrays["slope"]), float(arrays["intercept"][0]), (high, low))

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The arrays of its model."""
        return {
            "slope": self.slope,
            "intercept": np.array([self.intercept]),
            "factors": np.array(self.factors),
        }

    def verdicts(self, vectors: Vectors) -> Verdicts:
        """What it says of texts, by their vectors [texts, dim]."""
        # Here, since loading scipy is a fifth of what a supervisor loads, and few homes have a classifier.
        from scipy.special import expit

        positive: Floats = expit(vectors.astype(np.float64) @ self.slope + self.intercept)
        confidence = np.abs(2.0 * positive - 1.0)
        certain = np.where(positive >= 0.5, *self.factors)
        return Verdicts(positive, confidence, 1.0 - confidence + confidence * certain)
