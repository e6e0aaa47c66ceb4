"""Service accounts get up to two secrets, with dates, and their changes are audited.

The release before reads service_accounts.secret_hash, and adds accounts with it. The column stays
for as long as that release may run: the service keeps the hash of the oldest secret that does not
expire there, and a trigger takes over the secret of an account that the release before adds.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Tokens issued before this whole second are revoked, and later ones are not dated before it.
    "ALTER TABLE service_accounts ADD COLUMN revoked_before timestamptz",
    """
    CREATE TABLE service_account_secrets (
        client_id text COLLATE "C" NOT NULL REFERENCES service_accounts ON DELETE CASCADE,
        id uuid NOT NULL,
        secret_hash text NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz,
        last_used_at timestamptz,
        PRIMARY KEY (client_id, id),
        UNIQUE (client_id, secret_hash)
    ) WITH (fillfactor = 80)
    """,
    """
    CREATE FUNCTION take_over_secret() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO service_account_secrets (client_id, id, secret_hash, created_at)
        VALUES (NEW.client_id, gen_random_uuid(), NEW.secret_hash, NEW.created_at)
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER take_over_secret AFTER INSERT ON service_accounts
    FOR EACH ROW EXECUTE FUNCTION take_over_secret()
    """,
    """
    INSERT INTO service_account_secrets (client_id, id, secret_hash, created_at)
    SELECT client_id, gen_random_uuid(), secret_hash, created_at FROM service_accounts
    """,
    """
    ALTER TABLE audit_log
        ADD COLUMN client_id text COLLATE "C",
        ADD COLUMN secret_id uuid
    """,
)


def upgrade() -> None:
    """Add the table, the trigger and three columns."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: of two secrets, one would be lost, and the dates of both."""
    raise NotImplementedError("this migration is not undone; restore a backup")
