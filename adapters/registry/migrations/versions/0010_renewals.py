"""Audits that renew a stale verdict, and an index by which the last audit of each adapter is found."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column; no older audit renews a verdict."""
    op.add_column("audits", sa.Column("renews", sa.String(64), nullable=False, server_default=""))
    last = ["adapter", "state", "version", "admits", "renews", "finished_at", "id"]
    op.create_index("ix_audits_last", "audits", last)
    op.drop_index("ix_audits_adapter", "audits")
    where = sa.text("renews <> ''")
    op.create_index(
        "one_renewal",
        "audits",
        ["renews", "adapter", "version"],
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("one_renewal", "audits")
    op.create_index("ix_audits_adapter", "audits", ["adapter"])
    op.drop_index("ix_audits_last", "audits")
    op.drop_column("audits", "renews")
