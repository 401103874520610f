"""Alembic's entry: run the migrations on the connection that `Database` hands over."""

from alembic import context
from lorecall.adapters.registry.audit_tables import AuditRow  # its module declares the last of the tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=AuditRow.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
