"""Who may do what: API keys, scopes, and what is known of the current request."""
