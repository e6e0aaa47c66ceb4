"""An authenticator app, and how tests enroll it."""

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta

from auth_service.core.second_factors import FactorProof
from auth_service.core.totp import code_of
from auth_service.models import FactorKind
from tests.clock import FakeClock
from tests.integration.core import Core

STEP = timedelta(seconds=30)


@dataclass
class App:
    """An app that shows the codes of a secret in base32."""

    secret: str

    def code(self, moment: datetime) -> str:
        """Return what it shows at a moment."""
        padded = self.secret + "=" * (-len(self.secret) % 8)
        return code_of(base64.b32decode(padded), moment)

    def proof(self, moment: datetime) -> FactorProof:
        """Return what completes a login at a moment."""
        return FactorProof(FactorKind.TOTP, self.code(moment))


async def enroll(core: Core, clock: FakeClock, identifier: str = "ada@example.com") -> App:
    """Enroll an app of a user who has none; its next code is good after a time step."""
    claims = core.claims((await core.login(identifier)).access_token)
    told, token, _ = await core.factors.begin_totp(claims)
    app = App(told.secret)
    await core.factors.confirm_totp(claims, token, app.code(clock.now), "phone")
    clock.advance(STEP)
    return app
