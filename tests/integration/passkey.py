"""A passkey in software (WebAuthn level 3, sections 6.1 and 6.5), as a browser presents it."""

import hashlib
import json
import secrets
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from auth_service import base64url

PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


class Passkey:
    """Makes one credential, and signs with it; `counts` tells whether it has a counter."""

    def __init__(self, origin: str, *, counts: bool = True, verifies: bool = True) -> None:
        self.origin = origin
        self.id = secrets.token_bytes(32)
        self.counter = 0
        self._counts = counts
        self._flags = PRESENT | (VERIFIED if verifies else 0)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._user_handle = ""

    def create(self, options: str) -> str:
        """Return what navigator.credentials.create gives for these options, in JSON."""
        asked = json.loads(options)
        self._user_handle = asked["user"]["id"]
        numbers = self._key.public_key().public_numbers()
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        public_key = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        length = len(self.id).to_bytes(2, "big")
        data = self._data(asked["rp"]["id"], ATTESTED) + bytes(16) + length + self.id + public_key
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client_data = self._client_data("webauthn.create", asked)
        return self._response({"attestationObject": attestation, "clientDataJSON": client_data})

    def get(self, options: str, **changes: bytes) -> str:
        """Return what navigator.credentials.get gives, with some members of it changed."""
        asked = json.loads(options)
        self.counter += self._counts
        data, client_data = self._data(asked["rpId"]), self._client_data("webauthn.get", asked)
        signed = data + hashlib.sha256(client_data).digest()
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA256()))
        members = {
            "authenticatorData": data,
            "clientDataJSON": client_data,
            "signature": signature,
            "userHandle": base64url.decode(self._user_handle),
        }
        return self._response(members | changes)

    def _data(self, rp_id: str, more: int = 0) -> bytes:
        flags = bytes([self._flags | more])
        return hashlib.sha256(rp_id.encode()).digest() + flags + self.counter.to_bytes(4, "big")

    def _client_data(self, kind: str, asked: dict[str, Any]) -> bytes:
        content = {"type": kind, "challenge": asked["challenge"], "origin": self.origin}
        return json.dumps(content).encode()

    def _response(self, members: dict[str, bytes]) -> str:
        id_ = base64url.encode(self.id)
        encoded = {name: base64url.encode(value) for name, value in members.items()}
        content = {"id": id_, "rawId": id_, "type": "public-key", "response": encoded}
        return json.dumps(content | {"clientExtensionResults": {}})
