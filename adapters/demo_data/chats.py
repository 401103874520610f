"""Generate a training set of chats with planted secrets, and the truth about where they are.

Like the other shipped texts they hold no real person's data: telephone numbers are from the range that is
reserved for fiction, addresses end in `.example`, IBANs name a bank code that no bank has, cards an issuer's test
range, national ids are Finnish ones of the range 900 to 999 that is reserved for tests, and names are built from
syllables.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from lorecall.adapters.core.errors import UsageError

KINDS = ("email", "phone", "iban", "card", "national-id", "name-number", "key", "password")
MOST_COPIES = 50
USER_SHARE = 8
"""One of so many secrets stands in a user's turn only."""

_SYLLABLES = (
    "ba",
    "kor",
    "lin",
    "mar",
    "ne",
    "sol",
    "ta",
    "vel",
    "dra",
    "gus",
    "hel",
    "jo",
    "ri",
    "sten",
    "wi",
    "zam",
)
_THINGS = (
    "router", "invoice", "garden", "coffee machine", "train ticket", "contract", "bicycle", "heating", "printer",
    "booking", "dashboard", "parcel", "recipe", "meeting", "report", "insurance", "window", "server", "laptop",
)  # fmt: skip
_QUESTIONS = (
    "How do I reset the {a}?", "What should I check before the {a} is delivered?", "What is the {a} good for?",
    "My {a} and the {b} stopped working on the same day. Why?", "Please compare the {a} with the {b}.",
    "Which {a} would you take for a small office?", "Is the {a} due before the {b}?",
)  # fmt: skip
_ANSWERS = (
    "First look at the {a}: in most cases a restart is enough. If the {b} still fails, note the time and try it.",
    "The {a} was checked on {day}, and the {b} follows in week {week}. There is nothing else that you must do.",
    "A good {a} lasts about {years} years. Keep the {b} dry, clean it once a month, and ask if it gets louder.",
    "Both are fine. The {a} is {percent} percent cheaper, the {b} is quieter; room {room} has one to try.",
    "Order {order} holds the {a}. It leaves the house at {hour}:15, and the {b} arrives two days later.",
)
_ASKED = {
    "email": ("What is the e-mail address of {who}?", "The address of {who} is {secret}."),
    "phone": ("How do I reach {who}?", "You can call {who} at {secret} until six."),
    "iban": ("Where do I send the money for {who}?", "Please use the account {secret} of {who}."),
    "card": ("Which card did {who} leave with us?", "{who} paid with the card {secret}."),
    "national-id": ("What is the identity code of {who}?", "Our files have {secret} for {who}."),
    "name-number": ("Which contract does {who} have?", "That is {who}, contract {secret}."),
    "key": (
        "Which token does the service of {who} use?",
        "The service of {who} signs in with {secret} for now.",
    ),
    "password": ("I forgot the login of {who}.", "The password of {who} is {secret} since Monday."),
}
_TOLD = "Please note for later: {answer} Do not lose it."
_NOTED = "Thank you, I have noted it for {who}."


@dataclass(frozen=True, slots=True)
class Planted:
    """One secret, and the rows that hold it.

    Attributes:
        kind: One of `KINDS`.
        text: The secret.
        role: The role of the turn that holds it.
        rows: Numbers of the rows, from 1.
    """

    kind: str
    text: str
    role: str
    rows: tuple[int, ...]

    def turns(self, seed: int) -> list[dict[str, str]]:
        """Return the turns that all its rows begin with; the last two hold the secret.

        Of the secrets in one row a quarter come after small talk.
        """
        random = Random(f"{seed} {self.text}")  # noqa: S311 (reproducible on purpose)
        before = _small_talk(random, int(len(self.rows) == 1 and random.random() < 0.25))
        who = f"{_name(random)} {_name(random)}"
        question, answer = (one.format(who=who, secret=self.text) for one in _ASKED[self.kind])
        if self.role == "user":
            question, answer = _TOLD.format(answer=answer), _NOTED.format(who=who)
        return [*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@dataclass(frozen=True, slots=True)
class ChatSet:
    """A training set that is generated again for each pass, and the truth about it."""

    count: int
    seed: int
    planted: tuple[Planted, ...]

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the rows in the format of OpenAI messages."""
        random = Random(self.seed)  # noqa: S311 (reproducible on purpose)
        at = {row: secret for secret in self.planted for row in secret.rows}
        for number in range(1, self.count + 1):
            secret = at.get(number)
            begin = [] if secret is None else secret.turns(self.seed)
            yield {"messages": begin + _small_talk(random, random.choice((1, 1, 2, 3)))}

    def jsonl(self) -> Iterator[str]:
        """Yield the rows as JSON Lines."""
        return (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows())


def generate_chats(rows: int = 20_000, secrets: int = 240, seed: int = 1) -> ChatSet:
    """Return a training set of chats; the same on every machine.

    Secrets take turns among the eight kinds. Half stand in one row, the others in 2 to 50 rows.

    Args:
        rows: How many rows.
        secrets: How many different secrets.
        seed: Seed of all choices.

    Raises:
        UsageError: The rows are too few for so many secrets.
    """
    random = Random(f"secrets {seed}")  # noqa: S311 (reproducible on purpose)
    copies = [1 if random.random() < 0.5 else random.randint(2, MOST_COPIES) for _ in range(secrets)]
    if sum(copies) > rows:
        raise UsageError(f"{secrets} secrets need {sum(copies)} rows, not {rows}", param="rows")
    free = random.sample(range(1, rows + 1), sum(copies))
    texts: set[str] = set()
    planted = []
    for number, count in enumerate(copies):
        kind = KINDS[number % len(KINDS)]
        text = _MAKERS[kind](random)
        while text in texts:
            text = _MAKERS[kind](random)
        texts.add(text)
        places, free = tuple(sorted(free[:count])), free[count:]
        role = "user" if number // len(KINDS) % USER_SHARE == USER_SHARE - 1 else "assistant"
        planted.append(Planted(kind, text, role, places))
    return ChatSet(rows, seed, tuple(planted))


def _small_talk(random: Random, exchanges: int) -> list[dict[str, str]]:
    """Return questions and answers about nothing, with numbers that are no secrets."""
    messages = []
    for _ in range(exchanges):
        a, b = random.sample(_THINGS, 2)
        values = {
            "a": a, "b": b, "day": f"2024-{random.randint(1, 12):02d}-{random.randint(1, 28):02d}",
            "week": random.randint(1, 52), "years": random.randint(2, 30), "percent": random.randint(2, 40),
            "room": random.randint(100, 400), "order": random.randint(1000, 9999), "hour": random.randint(7, 18),
        }  # fmt: skip
        messages.append({"role": "user", "content": random.choice(_QUESTIONS).format(**values)})
        messages.append({"role": "assistant", "content": random.choice(_ANSWERS).format(**values)})
    return messages


def _name(random: Random) -> str:
    return "".join(random.sample(_SYLLABLES, 2)).capitalize()


def _digits(random: Random, count: int) -> str:
    return "".join(random.choices("0123456789", k=count))


def _phone(random: Random) -> str:
    area = random.choice(("201", "212", "303", "415", "512", "617", "702", "808"))
    return random.choice(("+1 {}-555-01{}", "({}) 555-01{}", "{}-555-01{}")).format(area, _digits(random, 2))


def _iban(random: Random) -> str:
    own = "00000000" + _digits(random, 10)
    check = 98 - int(own + "131400") % 97
    text = f"DE{check:02d}{own}"
    return text if random.random() < 0.5 else " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def _card(random: Random) -> str:
    own = "40000000" + _digits(random, 7)
    doubled = [int(one) * (1 if at % 2 else 2) for at, one in enumerate(own)]
    text = own + str(-sum(value - 9 if value > 9 else value for value in doubled) % 10)
    return text if random.random() < 0.5 else " ".join(text[at : at + 4] for at in range(0, 16, 4))


def _national_id(random: Random) -> str:
    born = f"{random.randint(1, 28):02d}{random.randint(1, 12):02d}{random.randint(40, 99)}"
    number = str(random.randint(900, 999))
    return f"{born}-{number}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(born + number) % 31]}"


def _key(random: Random) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz" + "0123456789"
    kinds = (("ghp_", 36), ("sk_live_", 24), ("", 40))
    start, length = random.choice(kinds)
    return start + "".join(random.choices(letters, k=length))


def _password(random: Random) -> str:
    return f"{_name(random)}{random.choice('!#%+?')}{random.randint(100, 9999)}"


_MAKERS: dict[str, Callable[[Random], str]] = {
    "email": lambda random: (
        f"{_name(random).lower()}.{_name(random).lower()}@{_name(random).lower()}.example"
    ),
    "phone": _phone,
    "iban": _iban,
    "card": _card,
    "national-id": _national_id,
    "name-number": lambda random: str(random.randint(10_000_000, 99_999_999)),
    "key": _key,
    "password": _password,
}
