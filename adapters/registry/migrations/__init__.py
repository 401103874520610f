"""How the registry's schema came to be; run by Alembic from `lorecall.adapters.registry.database`."""
