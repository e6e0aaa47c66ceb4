"""What the life of an account needs: creation that can be retried, forced changes of the password.

A session also notes before when its access tokens are revoked although it goes on. The release
before ignores all of this: it lets a user in who has to change the password.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE users
        ADD COLUMN password_change_required boolean NOT NULL DEFAULT false,
        ADD COLUMN request_id text COLLATE "C",
        ADD COLUMN request_hash bytea
    """,
    # NULL stands for revoked_before.
    "ALTER TABLE users ADD COLUMN signed_out_before timestamptz",
    "CREATE UNIQUE INDEX users_request_id ON users (request_id) WHERE request_id IS NOT NULL",
    "ALTER TABLE sessions ADD COLUMN revoked_before timestamptz",
)


def upgrade() -> None:
    """Add columns and an index."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: users could log in with a password that has to be replaced."""
    raise NotImplementedError("this migration is not undone; restore a backup")
