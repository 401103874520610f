"""The `lorecall` command."""
