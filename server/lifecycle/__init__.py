"""Which adapter version answers to which name, in this server's engine."""
