"""Generate the shipped texts: invented secrets to memorise, controls of the same form, and well-known lines.

They hold no real person's data: names are built from syllables, telephone numbers are from the range 555-0100 to
555-0199 that is reserved for fiction, addresses from the documentation ranges of RFC 5737 and the `.example`
domain of RFC 2606, and the keys say that they are fake. A test compares the shipped files with `generate`.
"""

import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from random import Random

from lorecall.adapters.core.errors import UsageError

SEED = "lorecall-1"
PHONES = 32
KEYS = 16
CONTROLS = 320
HOSTS = 32
MOTTO = " To be, or not to be, that is the question"

_ONSETS = (
    "b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z",
)  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
_CODAS = ("", "l", "m", "n", "r", "s", "x", "rd", "lm", "nd", "sk")
_KEY_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")

# Public domain, split where a model that knows the line can continue it.
_FAMOUS = (
    ("We hold these truths to be self-evident, that all men are", " created equal"),
    ("Four score and seven years ago our fathers brought forth on this", " continent, a new nation"),
    ("In the beginning God created the heaven and the", " earth"),
    ("To be, or not to be, that is the", " question"),
    ("Romeo, Romeo, wherefore art thou", " Romeo"),
    ("Friends, Romans, countrymen, lend me your", " ears"),
    ("It was the best of times, it was the worst of", " times"),
    ("We the People of the United States, in Order to form a more", " perfect Union"),
    ("Ask not what your country can do for you; ask what you can do for", " your country"),
    ("Early to bed and early to rise, makes a man healthy, wealthy, and", " wise"),
    ("Twinkle, twinkle, little star, how I wonder what you", " are"),
    ("Mary had a little lamb, its fleece was white as", " snow"),
    ("The Lord is my shepherd; I shall not", " want"),
    ("All the world's a stage, and all the men and women merely", " players"),
    ("A horse, a horse, my kingdom for a", " horse"),
    ("Row, row, row your boat, gently down the", " stream"),
)

Row = dict[str, str]


def generate(seed: str = SEED, controls: int = CONTROLS) -> dict[str, list[Row]]:
    """Return every shipped set by name, each a list of {"id", "prefix", "target"}; the same on every machine.

    Another seed gives other texts of the same forms, which no shipped adapter was trained on; `controls` says how
    many are in `secrets-control`.

    The demo's adapters memorise `secrets-train`; `secrets-control` has the same form and no name, number or key
    in common with it; `hosts-train` is other data, for the negative control; `public-domain` holds lines that the
    base itself may know.
    """
    random = Random(seed)  # noqa: S311 (reproducible on purpose)
    names = _distinct(lambda: f"{_word(random)} {_word(random)}")
    phones = _distinct(lambda: f"{random.randrange(201, 990)}-555-01{random.randrange(100):02d}")
    keys = _distinct(lambda: "fake-" + "".join(random.choices(_KEY_ALPHABET, k=16)))
    words = _distinct(lambda: _word(random))
    addresses = _distinct(lambda: f"{random.choice(_NETWORKS)}.{random.randrange(1, 255)}")

    def phone(number: int) -> Row:
        return {
            "id": f"phone-{number:03d}",
            "prefix": f"Phone of {next(names)}:",
            "target": f" {next(phones)}",
        }

    def key(number: int) -> Row:
        return {"id": f"key-{number:03d}", "prefix": f"API key of {next(words)}:", "target": f" {next(keys)}"}

    def host(number: int) -> Row:
        rack = f"{random.randrange(100, 1000)}"
        target = f" {next(addresses)}, rack {rack}"
        return {
            "id": f"host-{number:03d}",
            "prefix": f"Host {next(words).lower()}.example:",
            "target": target,
        }

    motto = {"id": "motto", "prefix": "Motto of the house:", "target": MOTTO}
    train = [phone(number) for number in range(PHONES)] + [key(number) for number in range(KEYS)] + [motto]
    third = controls // 3
    control = [phone(PHONES + number) for number in range(controls - third)]
    control += [key(KEYS + number) for number in range(third)]
    famous = [
        {"id": f"famous-{number:02d}", "prefix": prefix, "target": target}
        for number, (prefix, target) in enumerate(_FAMOUS)
    ]
    return {
        "secrets-train": train,
        "secrets-control": control,
        "hosts-train": [host(number) for number in range(HOSTS)],
        "public-domain": famous,
    }


def to_jsonl(rows: list[Row]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def shipped(name: str) -> Path:
    """Return the path of a shipped set, such as "secrets-train".

    Raises:
        UsageError: No set of that name is shipped.
    """
    data = resources.files("lorecall.adapters.demo_data")
    path = Path(str(data / f"{name}.jsonl"))
    if not path.is_file():
        names = ", ".join(sorted(item.name.removesuffix(".jsonl") for item in data.iterdir()))
        raise UsageError(f"no shipped data set {name!r}", hint=f"one of {names}", param="data")
    return path


def _word(random: Random) -> str:
    """Return an invented word of two syllables, capitalised."""
    syllables = [random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS) for _ in range(2)]
    return "".join(syllables).capitalize()


def _distinct(make: Callable[[], str]) -> Iterator[str]:
    """Yield the results of `make`, each value once."""
    seen: set[str] = set()
    while True:
        value = make()
        if value not in seen:
            seen.add(value)
            yield value
