"""Names, their immutable versions and who did what when, in SQLite or PostgreSQL."""
