"""Teacher-forced scores and greedy decodes through the engine of this process."""
