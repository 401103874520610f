"""Teacher-forced scores and greedy decodes through the engine of this process."""

__all__ = ["base_scores", "engine_scorer", "offline_scorer", "score", "selfcheck"]
