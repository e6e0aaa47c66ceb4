"""What a token is: access and refresh tokens, their strict form (JWS), keys and revocations.

Everything here is computed in memory and is part of the base install. Nothing here does I/O, reads
settings, or knows a database or a transport.
"""
