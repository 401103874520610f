"""The text model inside a multimodal checkpoint, such as Gemma3ForConditionalGeneration."""

from typing import Any

from lorecall.adapters.bases.locate import BaseFiles
from lorecall.adapters.core.errors import BaseModelError

TEXT_KEYS = {
    r"^model\.language_model\.": "model.",  # as transformers 5 saves them
    r"^language_model\.model\.": "model.",  # as before release 4.52
    r"^language_model\.lm_head\.": "lm_head.",
}
"""From the names of a multimodal checkpoint's tensors to those of its text model."""


def text_model(source: BaseFiles) -> tuple[Any, dict[str, Any]]:
    """Return the class in transformers that loads a source's language model, and its arguments.

    For a model of text alone that is `AutoModelForCausalLM`. For a multimodal one it is the class of its text
    model, with that model's configuration and the names of its tensors; what sees and hears is left out.

    Raises:
        BaseModelError: The text model has no class of its own in transformers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    if source.gguf is not None:
        return AutoModelForCausalLM, {}
    config = AutoConfig.from_pretrained(source.directory)
    text = config.get_text_config(decoder=True)
    if text is config:
        return AutoModelForCausalLM, {}
    mapping = AutoModelForCausalLM._model_mapping  # noqa: SLF001  (no public way from a configuration to its class)
    if type(text) not in mapping or "ForCausalLM" not in mapping[type(text)].__name__:
        raise BaseModelError(
            f"{source.label}: its text model ({text.model_type}) cannot be served alone: transformers has no"
            " causal language model of that type",
            hint="name the text model's own checkpoint if there is one",
            param="from",
        )
    stated = config.to_diff_dict()
    if "tie_word_embeddings" in stated:
        text.tie_word_embeddings = config.tie_word_embeddings
    return mapping[type(text)], {"config": text, "key_mapping": TEXT_KEYS}


def text_class(source: BaseFiles) -> str:
    """Return the name of the class of a multimodal source's text model; "" for text alone, or if unreadable.

    Raises:
        BaseModelError: The text model has no class of its own in transformers.
    """
    try:
        loader, more = text_model(source)
    except (ValueError, OSError, ImportError, KeyError):
        return ""  # `load_base` says what is wrong with it
    return str(loader.__name__) if more else ""
