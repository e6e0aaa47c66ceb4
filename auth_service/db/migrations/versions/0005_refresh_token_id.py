"""The database tells a genuine refresh token by itself, before it rotates the session.

refresh_token_id(seed, generation) is what auth_service/tokens/refresh.py computes: the first 16
bytes of HMAC-SHA256(seed, "refresh <generation>") (RFC 2104). PostgreSQL has SHA-256 but no HMAC
outside the extension pgcrypto, which not every installation has. A seed has 32 bytes, half a block
of SHA-256: each pad is the seed, XORed in four parts of 64 bits, and 32 bytes more.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INNER = 0x3636363636363636
_OUTER = 0x5C5C5C5C5C5C5C5C


def _padded(word: int) -> str:
    """Return the SQL of one block: the seed and zeros, XORed with a repeated 64-bit word."""
    parts = [
        f"int8send(('x' || encode(substr(seed, {start}, 8), 'hex'))::bit(64)::bigint # {word})"
        for start in (1, 9, 17, 25)
    ]
    rest = word.to_bytes(8).hex() * 4
    return " || ".join([*parts, f"'\\x{rest}'::bytea"])


def upgrade() -> None:
    """Add the function."""
    inner = f"sha256({_padded(_INNER)} || ('refresh ' || generation::text)::bytea)"
    op.execute(
        f"""
        CREATE FUNCTION refresh_token_id(seed bytea, generation bigint) RETURNS bytea
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN substr(sha256({_padded(_OUTER)} || {inner}), 1, 16)
        """
    )


def downgrade() -> None:
    """Drop the function."""
    op.execute("DROP FUNCTION refresh_token_id")
