"""Teacher-forced scores and greedy decodes through the engine of this process."""

__all__ = ["engine_scorer", "offline_scorer", "score", "selfcheck"]
