"""Pairs of plain English sentences that have nothing to do with a catalogue: what an encoder must not forget."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np

#: Subjects, what they do, and where or when, by domain.
_DOMAINS: Final[tuple[tuple[str, str, str], ...]] = (
    (
        "my neighbour|the cook|our grandmother|a student in the kitchen|the baker",
        "kneads the dough|chops onions and garlic|boils a pot of rice|burns the toast|tastes the soup",
        "before breakfast|on a wooden table|for twelve guests|with a pinch of salt|while the oven warms up",
    ),
    (
        "heavy rain|a cold front|thick fog|the first snow|a dry wind",
        "closes the airport|floods the valley|moves in from the north|delays the trains|covers the fields",
        "this weekend|before dawn|for the third day|along the coast|in the mountains",
    ),
    (
        "the central bank|a small investor|the treasury|the pension fund|an accountant",
        "raises the interest rate|sells government bonds|reports a loss|checks the yearly balance|lowers the tax",
        "by a quarter of a percent|after the election|in the second quarter|against all advice|to slow inflation",
    ),
    (
        "the surgeon|a nurse on the night shift|the patient|a family doctor|the laboratory",
        "measures the blood pressure|prescribes an antibiotic|waits for the results|treats a broken wrist|"
        "finds a virus",
        "in the emergency room|twice a day|after the operation|without any side effects|at the clinic",
    ),
    (
        "the mechanic|a lorry driver|the electrician|our apprentice|the plumber",
        "replaces the brake pads|tightens a loose screw|repairs the boiler|orders a spare part|drains the pipes",
        "in an hour|under the bridge|for a fair price|with the wrong tool|before the inspection",
    ),
    (
        "the physicist|a doctoral student|the telescope|an old theory|the new instrument",
        "measures the speed of light|predicts the orbit of a comet|explains the radiation|detects a distant galaxy|"
        "disagrees with the data",
        "to nine digits|in a vacuum|for the first time|within the error bars|at very low temperatures",
    ),
    (
        "the gardener|a beekeeper|the farmer|a flock of starlings|the old apple tree",
        "waters the tomatoes|gathers honey|ploughs the lower field|eats all the cherries|bears fruit",
        "in late summer|behind the barn|every other year|without pesticides|after a long drought",
    ),
    (
        "the goalkeeper|a marathon runner|the coach|the home team|a young swimmer",
        "saves a penalty|breaks the national record|changes the whole defence|loses the final|trains twice a day",
        "in front of a silent crowd|by two seconds|in extra time|despite an injury|at the summer games",
    ),
    (
        "the programmer|a database|the old printer|the network administrator|a text editor",
        "fixes a memory leak|rejects the password|runs out of disk space|restarts the router|saves the file",
        "after the update|every night at two|in hexadecimal|without a backup|on the test machine",
    ),
    (
        "the tenant|a notary|the court|our landlord|the city council",
        "signs the contract|appeals the ruling|raises the rent|asks for a written notice|postpones the hearing",
        "for another five years|within fourteen days|in the presence of a witness|without giving a reason|by mail",
    ),
    (
        "a tourist|the night train|the ferry|our guide|the customs officer",
        "misses the connection|crosses the border|opens every suitcase|stops at a tiny station|leaves the harbour",
        "with an expired passport|an hour late|near the old town|on the way to the islands|at midnight",
    ),
    (
        "the teacher|a class of ten year olds|the new pupil|the librarian|the school",
        "corrects the homework|learns the multiplication table|asks a difficult question|lends a dictionary|"
        "cancels the trip",
        "in the first lesson|with red ink|during the break|without an excuse|before the holidays",
    ),
)  # fmt: skip
_SEED: Final = 20_000


def sentence_pairs(count: int = 2000) -> list[tuple[str, str]]:
    """Pairs of different sentences, the same ones each time: half of one domain, half of any two."""
    of_domain = [
        [" ".join(parts).capitalize() + "." for parts in product(*(part.split("|") for part in domain))]
        for domain in _DOMAINS
    ]
    random, pairs = np.random.default_rng(_SEED), []
    for number in range(count):
        one, other = random.choice(len(of_domain), 2, replace=False).tolist()
        other = one if number % 2 else other
        first, second = random.choice(len(of_domain[one]), 2, replace=False).tolist()
        pairs.append((of_domain[one][first], of_domain[other][second]))
    return pairs
