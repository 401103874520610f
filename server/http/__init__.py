"""The routes that we add to vLLM's OpenAI server, through its `endpoint_plugins` entry point."""
