"""Indexes for lists that are read page by page, and for the retention of events."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Index events by name and id and by time, and audits by time and end; nobody asks for events by revision."""
    op.drop_index("ix_events_revision", "events")
    op.drop_index("ix_events_name", "events")
    op.create_index("ix_events_name_id", "events", ["name", "id"])
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_audits_created_at", "audits", ["created_at"])
    op.drop_index("ix_audits_state", "audits")
    op.create_index("ix_audits_state_finished_at", "audits", ["state", "finished_at"])


def downgrade() -> None:
    """Go back to the indexes of before."""
    op.drop_index("ix_audits_state_finished_at", "audits")
    op.create_index("ix_audits_state", "audits", ["state"])
    op.drop_index("ix_audits_created_at", "audits")
    op.drop_index("ix_events_at", "events")
    op.drop_index("ix_events_name_id", "events")
    op.create_index("ix_events_name", "events", ["name"])
    op.create_index("ix_events_revision", "events", ["revision"])
