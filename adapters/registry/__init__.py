"""Names, their immutable versions and who did what, in SQLite or PostgreSQL."""
