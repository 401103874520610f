"""Keep each key's prompts apart in the engine's prefix cache: speed tells nobody what others asked."""

import hashlib
import hmac
from typing import Any

from lorecall.adapters.access.keys import ApiKey

_PURPOSE = b"lorecall cache salt\0"


def salted(prompt: Any, key: ApiKey) -> Any:
    """Return a prompt, as `generate` takes it, that shares cached blocks only with others of the same key.

    A `cache_salt` of the caller's own parts the key's prompts further; it cannot reach another key's.

    Raises:
        ValueError: The prompt is a stream, which holds no salt.
    """
    if isinstance(prompt, str):
        prompt = {"prompt": prompt}
    if not isinstance(prompt, dict):
        raise ValueError("a prompt that is sent in parts is not served with an API key")  # noqa: TRY004  vLLM answers 400
    if "decoder_prompt" in prompt:
        return {**prompt, "decoder_prompt": salted(prompt["decoder_prompt"], key)}
    return {**prompt, "cache_salt": salt_of(key, prompt.get("cache_salt") or "")}


def salt_of(key: ApiKey, own: str) -> str:
    """Return the salt of a key's requests: the same on every server, and unknown without the key's digest."""
    message = _PURPOSE + own.encode(errors="surrogatepass")
    return hmac.new(bytes.fromhex(key.digest), message, hashlib.sha256).hexdigest()
