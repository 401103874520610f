"""Versions carry the chat template that their requests are rendered with, which is no part of their digest."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the text; older versions are rendered with the base's, as they were."""
    op.add_column(
        "adapter_versions", sa.Column("chat_template", sa.String(), nullable=False, server_default="")
    )


def downgrade() -> None:
    """Drop the text."""
    op.drop_column("adapter_versions", "chat_template")
