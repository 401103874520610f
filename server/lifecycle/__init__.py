"""Which adapter version answers to which name, in this server's engine."""

__all__ = [
    "chat_templates",
    "control_plane",
    "description",
    "engine_set",
    "follower",
    "load_checks",
    "served_models",
    "stopping",
]
