"""Names, their immutable versions and who did what, in SQLite or PostgreSQL."""

__all__ = ["audit_tables", "database", "records", "registry", "tables", "transitions"]
