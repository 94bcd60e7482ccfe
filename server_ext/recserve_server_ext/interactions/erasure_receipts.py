"""Receipts of erasures: they prove that a user was erased here, and do not name the user."""

from __future__ import annotations

import hmac
from typing import Final

from recserve_client.contract import ErasureReceipt
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import Erased

_PURPOSE: Final = b"recserve erasure receipt"


def receipt_of(pseudonyms: Pseudonyms, pseudonym: str, erased: Erased, erased_at: float) -> ErasureReceipt:
    """The receipt of an erasure.

    Args:
        pseudonyms: The ring in force.
        pseudonym: Of the user.
        erased: What the erasure did.
        erased_at: Seconds since 1970.
    """
    proof = _proof(pseudonyms, pseudonym, erased_at, erased.interactions, erased.refused_until)
    return ErasureReceipt(erased_at, erased.interactions, erased.refused_until, proof)


def is_receipt_of(pseudonyms: Pseudonyms, pseudonym: str, receipt: ErasureReceipt) -> bool:
    """Whether one of these keys signed this receipt for this user, while it was the newest."""
    numbers = (receipt.erased_at, receipt.interactions, receipt.refused_until)
    given = receipt.proof.encode(errors="replace")
    return any(
        hmac.compare_digest(_proof(ring, name, *numbers).encode(), given) for ring, name in pseudonyms.stages(pseudonym)
    )


def _proof(pseudonyms: Pseudonyms, pseudonym: str, erased_at: float, interactions: int, until: float) -> str:
    """HMAC-SHA256 over the purpose, the pseudonym, and the numbers, times in whole microseconds."""
    erased_us, until_us = round(erased_at * MICROSECONDS), round(until * MICROSECONDS)
    content = b"%s\n%s\n%d\n%d\n%d" % (_PURPOSE, pseudonym.encode(), erased_us, interactions, until_us)
    return pseudonyms.sign(content)
