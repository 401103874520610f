"""The routes that we add to vLLM's OpenAI server, through its `endpoint_plugins` entry point."""

__all__ = ["adapters", "audits", "engine", "gateway", "keys", "logprobs", "page", "score", "state"]
