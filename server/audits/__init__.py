"""The audit service of a running server, and the gate before an adapter goes live."""
