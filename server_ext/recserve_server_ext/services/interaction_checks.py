"""Interactions as they come over the wire, decoded one by one: a bad one is refused alone, and its user not named."""

from __future__ import annotations

from typing import Final

import msgspec

from recserve_client.contract import InteractionResult, NewInteraction, RequestError
from recserve_client.contract.private_packing import PrivateUnpacker
from recserve_server_ext.common.errors import UserIdError
from recserve_server_ext.config.server import Limits
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.keys import UserKeys

#: Reasons beside those of `recserve_server_ext.interactions.interaction.Refused`.
MALFORMED: Final = "malformed"
TOO_LARGE: Final = "too_large"
_USER: Final = "invalid_user"


class InteractionChecks:
    """Decodes interactions and puts pseudonyms in place of the user ids."""

    def __init__(self, keys: UserKeys, limits: Limits) -> None:
        self._keys = keys
        self._limits = limits
        self._unpack = PrivateUnpacker[NewInteraction](NewInteraction)

    def __call__(self, raw: msgspec.Raw) -> Interaction | InteractionResult:
        """The interaction in JSON of `NewInteraction`, ready for the store, or its refusal."""
        allowed = self._limits.interaction_bytes
        if len(raw) > allowed:
            detail = f"the interaction has {len(raw):,} bytes; limits.interaction_bytes allows {allowed:,}"
            return InteractionResult("refused", reason=TOO_LARGE, detail=detail)
        try:
            new = self._unpack(raw)
            user = self._keys.pseudonyms.of(new.user_id)
        except RequestError as error:
            return InteractionResult("refused", reason=MALFORMED, detail=error.text)
        except UserIdError as error:
            return InteractionResult("refused", reason=_USER, detail=str(error))
        fields = msgspec.structs.asdict(new)
        del fields["user_id"]
        return Interaction(user=user, **fields)
