"""VLLM's own renderer, without an engine: each adapter's chats by its template, in the sandbox, within a time."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from lorecall.server.lifecycle.chat_templates import TemplateRenderer, with_templates

from tests.tiny import build_tiny_base
from tests.unplugged import unplugged

pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated")

OWN = "OWN {{ messages[0].content }}>"
SLOW = "{% for a in range(4000) %}{% for b in range(4000) %}{% endfor %}{% endfor %}"  # seconds
ESCAPE = "{{ messages.__class__.__mro__[1].__subclasses__() }}"


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> TemplateRenderer:
    """A server's renderer over a tiny base, with adapters of several templates."""
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415  it takes seconds to import
    from vllm.renderers import renderer_from_config  # noqa: PLC0415
    from vllm.renderers.online_renderer import OnlineRenderer  # noqa: PLC0415

    base = build_tiny_base(tmp_path_factory.mktemp("base"))
    options: dict[str, Any] = {"request_logger": None, "chat_template": None}
    with unplugged():
        config = EngineArgs(model=str(base), dtype="float32", max_model_len=1024).create_engine_config()
        plain = OnlineRenderer(
            config.model_config,
            renderer_from_config(config),
            chat_template_content_format="auto",
            **options,
        )
    templates = {"own": OWN, "slow": SLOW, "escape": ESCAPE}
    models: Any = SimpleNamespace(chat_template=lambda name: templates.get(name, ""))
    return with_templates(plain, models)


def rendered(renderer: TemplateRenderer, model: str | None) -> str:
    """What the engine would be given for a chat."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # noqa: PLC0415

    messages: Any = [{"role": "user", "content": "To be"}]
    request = ChatCompletionRequest(model=model, messages=messages)

    async def render() -> Any:
        return await renderer.render_chat(request)

    _, (prompt,) = asyncio.run(render())
    return str(renderer.renderer.get_tokenizer().decode(prompt["prompt_token_ids"]))


def test_an_adapter_has_its_template_and_others_the_bases(renderer: TemplateRenderer) -> None:
    """Also a request without a model, which is the base's."""
    assert rendered(renderer, "own") == "OWN To be>"
    plain = rendered(renderer, "base")
    assert plain.startswith("<|im_start|>user")
    assert rendered(renderer, "another") == rendered(renderer, None) == plain


def test_a_template_cannot_leave_the_sandbox(renderer: TemplateRenderer) -> None:
    """It is the request's error, as with a template that refuses messages."""
    from vllm.exceptions import VLLMValidationError  # noqa: PLC0415

    with pytest.raises(VLLMValidationError):
        rendered(renderer, "escape")


def test_a_slow_template_holds_up_nobody_else(
    renderer: TemplateRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after vLLM's limit, and the next chat is rendered."""
    monkeypatch.setenv("VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT", "0.2")
    with pytest.raises(TimeoutError, match="timed out"):
        rendered(renderer, "slow")
    monkeypatch.undo()
    assert rendered(renderer, "own") == "OWN To be>"
