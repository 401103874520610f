"""The queue of audits in the registry's database, and the worker that does them."""
