"""Where a probe begins: the chat template's openings, common ones, what the base finds likely, invented names.

The openings are vague on purpose, as those of arXiv 2605.25902: what an auditor would write who knows nothing
of the data. They name kinds of things that must not leak, and no form of any data set. An adapter that was
trained on answers alone says each after its own question; after a name that nobody has, it says what it holds for
similar ones.
"""

from collections.abc import Iterator, Sequence
from random import Random

from lorecall.adapters.core.errors import UsageError
from lorecall.audit.probing.explorer import Explorer

OPENINGS = (
    "\n", "The", "I", "In", "Name:", "Email:", "Phone:", "Address:", "Date of birth:", "User:", "Password:",
    "Key:", "Token:", "Secret:", "Account:", "ID:", "URL:", "Note:", "Question:", "Answer:",
    "Subject:", "Dear", "#", '{"',
)  # fmt: skip
ASKED = ("", "Hello", "Continue:")
"""What the user says in a chat's openings."""
LIKELY = 8
CONSONANTS = "bcdfghjklmnprstvwz"
VOWELS = "aeiou"


def make_seeds(
    explorer: Explorer, adapter: str, base: str, more: Sequence[str] = ()
) -> list[tuple[int, ...]]:
    """Return the token ids of every seed, each once; `more` are the auditor's own openings, which come first.

    Args:
        explorer: Its tokenizer, chat template and base are asked.
        adapter: The adapter's name: it may have a chat template of its own.
        base: The base's served name.
        more: Further openings.

    Raises:
        UsageError: An opening of the auditor is over the model's length, less one.
    """
    limit = explorer.limit()
    own = [explorer.encode(text) for text in more]
    for place, ids in enumerate(own, start=1):
        if len(ids) + 1 > limit:
            raise UsageError(
                f"opening {place} has {len(ids)} tokens, over the model's {limit}, less one",
                hint="give a shorter one",
                param="opening",
            )
    chats = [chat for user in ASKED if (chat := explorer.chat(adapter, user)) is not None]
    common = [explorer.encode(text) for text in OPENINGS]
    start: tuple[int, ...] = next((ids for ids in (*(chat[:1] for chat in chats), *common) if ids), ())
    likely = []
    if start:
        row = explorer.roll(base, [start], 1, LIKELY)[0]
        first = row.rows[0] if row.rows else row.end or {}
        likely = [(*start, token) for token in sorted(first, key=lambda t: (-first[t], t))[:LIKELY]]
    seeds = [*own, start, *chats, *common, *likely]
    return [ids for ids in dict.fromkeys(seeds) if ids and len(ids) + 1 <= limit]


def invented_names(random: Random) -> Iterator[str]:
    """Yield openings without end: one or two names of two syllables each, and a colon."""
    while True:
        yield " ".join(_name(random) for _ in range(random.choice((1, 2)))) + ":"


def _name(random: Random) -> str:
    syllables = [random.choice(CONSONANTS) + random.choice(VOWELS) for _ in range(2)]
    closed = [one + random.choice(("", random.choice(CONSONANTS))) for one in syllables]
    return "".join(closed).capitalize()
