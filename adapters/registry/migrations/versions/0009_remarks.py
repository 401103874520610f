"""Versions carry remarks: what their owners should know of how they are served."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the list; of older versions nothing is remarked."""
    op.add_column("adapter_versions", sa.Column("remarks", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    """Drop the list."""
    op.drop_column("adapter_versions", "remarks")
