"""Passkeys (WebAuthn): what a browser is asked, and whether its answer is good.

Owns the relying party: its id, and the origins of its pages. Attestation is not asked for, so any
authenticator may be used. Knows no database: the caller keeps the public key and the counter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import parse_authentication_credential_json
from webauthn.helpers.structs import (
    AuthenticationCredential,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from auth_service.errors import InvalidArgument
from auth_service.models import Factor, FactorKind, User

__all__ = ["NewPasskey", "Passkeys", "parsed_response"]

_LONGEST_RESPONSE = 1 << 14
"""Characters: many times what browsers send without attestation."""
_TIMEOUT = 300_000
"""Milliseconds for which a browser waits for its user: the life of a challenge."""


@dataclass(frozen=True, slots=True)
class NewPasskey:
    """A passkey as its authenticator made it."""

    credential_id: bytes
    public_key: bytes
    counter: int


class Passkeys:
    """The relying party (WebAuthn section 4): makes options and verifies answers, without I/O."""

    def __init__(self, rp_id: str, name: str, origins: Sequence[str]) -> None:
        self._rp_id = rp_id
        self._name = name
        self._origins = list(origins)

    def creation_options(self, challenge: bytes, user: User, known: Sequence[Factor]) -> str:
        """Return what a browser makes a passkey with, in JSON; it makes none beside `known`."""
        options = generate_registration_options(
            rp_id=self._rp_id,
            rp_name=self._name,
            user_id=user.id.bytes,
            user_name=user.identifiers[0],
            challenge=challenge,
            timeout=_TIMEOUT,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.PREFERRED
            ),
            exclude_credentials=_descriptors(known),
        )
        return options_to_json(options)

    def register(self, response: str, challenge: bytes) -> NewPasskey:
        """Return the passkey of a RegistrationResponseJSON. Raises InvalidArgument."""
        try:
            if len(response) > _LONGEST_RESPONSE:
                raise ValueError("too long")
            made = verify_registration_response(
                credential=response,
                expected_challenge=challenge,
                expected_rp_id=self._rp_id,
                expected_origin=self._origins,
            )
        except Exception as error:  # the package lets through what its parsers raise
            raise InvalidArgument(
                "passkey_response",
                "is not the answer of a browser to these options, on a page of "
                + " or ".join(self._origins),
            ) from error
        return NewPasskey(made.credential_id, made.credential_public_key, made.sign_count)

    def request_options(
        self, challenge: bytes, factors: Sequence[Factor] = (), *, alone: bool = False
    ) -> str:
        """Return what a browser asks one of these passkeys with, in JSON.

        `alone` asks any passkey, and requires that it verifies its user.
        """
        options = generate_authentication_options(
            rp_id=self._rp_id,
            challenge=challenge,
            timeout=_TIMEOUT,
            allow_credentials=_descriptors(factors),
            user_verification=_verification(alone),
        )
        return options_to_json(options)

    def counter_of(
        self, response: str, challenge: bytes, factor: Factor, *, alone: bool = False
    ) -> int | None:
        """Return the signature counter in the answer of a passkey; None if it is not good.

        A counter that did not increase is that of a copy (WebAuthn section 6.1.1).
        """
        credential = parsed_response(response)
        if credential.response.user_handle not in (None, b"", factor.user_id.bytes):
            return None
        try:
            verified = verify_authentication_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._rp_id,
                expected_origin=self._origins,
                credential_public_key=factor.secret,
                credential_current_sign_count=factor.counter,
                require_user_verification=alone,
            )
        except Exception:  # noqa: BLE001 - the package lets through what its parsers raise
            return None
        return verified.new_sign_count


def parsed_response(response: str) -> AuthenticationCredential:
    """Return an AuthenticationResponseJSON, unverified. Raises InvalidArgument if it is none."""
    try:
        if len(response) > _LONGEST_RESPONSE:
            raise ValueError("too long")
        return parse_authentication_credential_json(response)
    except Exception as error:
        raise InvalidArgument(
            "passkey_response", "must be the AuthenticationResponseJSON of the browser"
        ) from error


def _descriptors(factors: Sequence[Factor]) -> list[PublicKeyCredentialDescriptor]:
    return [
        PublicKeyCredentialDescriptor(id=factor.credential_id)
        for factor in factors
        if factor.kind is FactorKind.PASSKEY and factor.credential_id is not None
    ]


def _verification(required: bool) -> UserVerificationRequirement:
    if required:
        return UserVerificationRequirement.REQUIRED
    return UserVerificationRequirement.PREFERRED
