"""Alembic's entry: run the migrations on the connection that `Database` hands over."""

from alembic import context
from lorecall.adapters.registry.tables import Model

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Model.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
