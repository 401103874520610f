"""API keys may carry a list of the sources that they may add adapters from."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the list; NULL is all that the server reads."""
    op.add_column("api_keys", sa.Column("sources", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    """Drop the list."""
    op.drop_column("api_keys", "sources")
