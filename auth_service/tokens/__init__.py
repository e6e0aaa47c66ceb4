"""What a token is: access and refresh tokens, their strict form (JWS), keys and revocations.

Everything here is computed in memory and is part of the base install.
No I/O, no settings, no database and no transport: those are the floors above.
"""
