"""Service accounts log in without a secret: mappings of workloads, public keys, used assertions.

The release before reads none of this. It takes the secret of an account over from the account's own
row; an account without a secret has an empty text there, which is taken over no longer.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE workload_mappings (
        issuer text COLLATE "C" NOT NULL,
        subject text COLLATE "C" NOT NULL,
        client_id text COLLATE "C" NOT NULL REFERENCES service_accounts ON DELETE CASCADE,
        claims jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        PRIMARY KEY (issuer, subject)
    )
    """,
    "CREATE INDEX ON workload_mappings (client_id)",
    """
    CREATE TABLE client_keys (
        client_id text COLLATE "C" NOT NULL REFERENCES service_accounts ON DELETE CASCADE,
        kid text COLLATE "C" NOT NULL,
        jwk text NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz,
        PRIMARY KEY (client_id, kid)
    )
    """,
    # The SHA-256 of the `jti` of each assertion that was used, until it has expired.
    """
    CREATE TABLE assertion_ids (
        client_id text COLLATE "C" NOT NULL,
        id bytea NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (client_id, id)
    )
    """,
    "CREATE INDEX ON assertion_ids (expires_at)",
    """
    CREATE OR REPLACE FUNCTION take_over_secret() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.secret_hash <> '' THEN
            INSERT INTO service_account_secrets (client_id, id, secret_hash, created_at)
            VALUES (NEW.client_id, gen_random_uuid(), NEW.secret_hash, NEW.created_at)
            ON CONFLICT DO NOTHING;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    ALTER TABLE audit_log
        ADD COLUMN issuer text COLLATE "C",
        ADD COLUMN subject text COLLATE "C",
        ADD COLUMN kid text COLLATE "C"
    """,
)


def upgrade() -> None:
    """Add the tables, three columns of the audit log, and the condition of the trigger."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: accounts without a secret could log in no more."""
    raise NotImplementedError("this migration is not undone; restore a backup")
