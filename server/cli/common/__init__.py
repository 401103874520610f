"""What several commands share: options, the HTTP client, progress bars."""
