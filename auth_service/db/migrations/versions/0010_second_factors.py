"""Second factors of users: authenticator apps, passkeys and recovery codes.

The release before lets a user in who has a second factor without it: update all servers before the
first user enrolls one.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Whether the user has a row in user_factors, so that a login without one reads nothing more.
    "ALTER TABLE users ADD COLUMN second_factor boolean NOT NULL DEFAULT false",
    # TOTP: `secret` is encrypted, and `counter` is the last time step whose code was accepted.
    # WebAuthn: `secret` is the public key, and `counter` the signature counter.
    """
    CREATE TABLE user_factors (
        user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
        id uuid NOT NULL,
        kind text NOT NULL CHECK (kind IN ('totp', 'webauthn')),
        name text NOT NULL,
        secret bytea NOT NULL,
        counter bigint NOT NULL,
        credential_id bytea UNIQUE,
        created_at timestamptz NOT NULL,
        last_used_at timestamptz,
        PRIMARY KEY (user_id, id),
        CHECK ((kind = 'webauthn') = (credential_id IS NOT NULL))
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE TABLE recovery_codes (
        user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
        code_hash bytea NOT NULL,
        PRIMARY KEY (user_id, code_hash)
    )
    """,
    # As login_throttle: a crash empties it.
    """
    CREATE UNLOGGED TABLE factor_attempts (
        user_id uuid PRIMARY KEY,
        full_at timestamptz NOT NULL
    ) WITH (fillfactor = 70)
    """,
)


def upgrade() -> None:
    """Add three tables and a column."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: users could log in without their second factor."""
    raise NotImplementedError("this migration is not undone; restore a backup")
