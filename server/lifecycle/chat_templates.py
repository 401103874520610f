"""An adapter's chats in its own chat template: on every route of vLLM's that makes a prompt of messages."""

from typing import Any, Self

from lorecall.server.engine.common.plugin import require
from lorecall.server.lifecycle.served_models import VersionedModels
from vllm.renderers.online_renderer import OnlineRenderer


class TemplateRenderer(OnlineRenderer):  # type: ignore[misc]
    """VLLM's renderer, with the template of the request's adapter in the place of the server's.

    It renders as any other: in Jinja's sandbox, in a thread, and within `VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT`.
    """

    models: VersionedModels

    async def preprocess_chat(
        self, request: Any, messages: list[Any], default_template: str | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Render messages, by the adapter's template unless the request brings a trusted one of its own."""
        own = self.models.chat_template(getattr(request, "model", None))
        return await super().preprocess_chat(request, messages, own or default_template, *args, **kwargs)

    def follow(self, models: VersionedModels) -> Self:
        """Take the templates from these models from now on."""
        self.models = models
        return self


def with_templates(renderer: OnlineRenderer, models: VersionedModels) -> TemplateRenderer:
    """Turn vLLM's renderer, which its handlers already hold, into one with the adapters' templates."""
    require(OnlineRenderer, "preprocess_chat", ("self", "request", "messages", "default_template"))
    renderer.__class__ = TemplateRenderer
    return renderer.follow(models)  # type: ignore[no-any-return]
