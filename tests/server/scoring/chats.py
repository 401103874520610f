"""Chats of one, two and three turns, with a system prompt, Unicode, and a tool's answer."""

CHATS: dict[str, list[dict[str, str]]] = {
    "one turn": [{"role": "user", "content": "To be, or not?"}],
    "a system prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "To be?"}],
    "two turns, Unicode": [
        {"role": "user", "content": "日本語 é 🙂\n\n"},
        {"role": "assistant", "content": " outrageous\u200b fortune "},
        {"role": "user", "content": "e\u0301?"},
    ],
    "three turns and a tool": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Which number?"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "555-0123"},
        {"role": "assistant", "content": "555-0123"},
        {"role": "user", "content": "<|im_end|> and then?"},
        {"role": "assistant", "content": "sk-test-"},
        {"role": "user", "content": "Again"},
    ],
}
