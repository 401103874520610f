"""Scenarios of load tests in YAML, checked against `scenario.schema.json`."""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from lorecall.loadtest.errors import ScenarioError

Mix = Literal["distinct", "uniform", "zipf", "identical", "round-robin"]
"""How requests choose among the adapters, by the names of Punica's and S-LoRA's papers.

`distinct`: every request asks for another one; `uniform`: each is as likely; `zipf`: a few are popular;
`identical`: all ask for the first; `round-robin`: they take turns.
"""

SHIPPED = files("lorecall.loadtest") / "scenarios"


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of a scenario: how many, their rank, and the slots of the servers that `compare` starts."""

    count: int
    rank: int = 8
    slots: int = 8


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests whose times are measured.

    Attributes:
        requests: How many.
        input_tokens: Tokens of each prompt.
        output_tokens: Tokens of each answer.
        concurrency: The most requests at a time.
        rate: Arrivals per second (Poisson); None sends the next request when one has ended.
        mix: How requests choose among the adapters.
        zipf: Exponent of the adapters' popularity in the mix "zipf"; 0 makes all equally popular.
        base_share: Share of requests to the base.
        seed: Of prompts and order.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    concurrency: int
    rate: float | None = None
    mix: Mix = "zipf"
    zipf: float = 1.0
    base_share: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Churn:
    """Adapters that are swapped, added and removed meanwhile; a pause in seconds, streams in tokens."""

    pause_s: float = 0.5
    output_tokens: int = 16


@dataclass(frozen=True, slots=True)
class Audit:
    """Texts that are scored meanwhile: a pause in seconds, texts in one call, words in each."""

    pause_s: float = 0.0
    texts: int = 8
    prefix_words: int = 24
    target_words: int = 12


@dataclass(frozen=True, slots=True)
class Flood:
    """Clients that meanwhile ask for the first adapter without a pause, in bursts; the traffic leaves it out.

    Attributes:
        clients: Requests under way at once during a burst.
        output_tokens: The longest answers; each is between half of it and all of it.
        burst_s: Length of a burst in seconds.
        pause_s: Seconds between two bursts.
    """

    clients: int = 8
    output_tokens: int = 32
    burst_s: float = 20.0
    pause_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Slo:
    """What an adapter's users may expect, in milliseconds; an adapter is within it if all its requests are.

    Attributes:
        ttft_ms: The longest time to the first token.
        tpot_ms: The longest time for each further token, on average over one answer.
    """

    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Many registered adapters beside few: `compare` serves both to the same server, with the same hits.

    Attributes:
        beside: How many the other server has; more than slots.
        listed: Registered names of the measurement of lists and starts.
        idle_s: Seconds that the idle server is watched.
    """

    beside: int = 16
    listed: int = 10_000
    idle_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test."""

    name: str
    description: str
    adapters: Adapters
    traffic: Traffic
    churn: Churn | None = None
    audit: Audit | None = None
    flood: Flood | None = None
    slo: Slo | None = None
    catalogue: Catalogue | None = None
    rounds: int = 5
    engine: tuple[str, ...] = field(default=())


def shipped() -> list[str]:
    """Return the names of the scenarios that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in SHIPPED.iterdir())


def load_scenario(source: str | Path) -> Scenario:
    """Read a scenario: a YAML file, or the name of a shipped one.

    Raises:
        ScenarioError: There is no such file, or it is invalid by the schema.
    """
    path = Path(source)
    if not path.is_file() and str(source) in shipped():
        return parse_scenario(yaml.safe_load((SHIPPED / f"{source}.yaml").read_text(encoding="utf-8")))
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(shipped())
        raise ScenarioError(f"{source} cannot be read", hint=f"a YAML file, or one of {names}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{source} is no YAML: {error}") from error
    return parse_scenario(body, str(source))


def parse_scenario(body: Any, where: str = "the scenario") -> Scenario:
    """Return the scenario of a parsed file.

    Raises:
        ScenarioError: It is invalid by the schema.
    """
    schema = json.loads((files("lorecall.loadtest") / "scenario.schema.json").read_text(encoding="utf-8"))
    wrong = best_match(Draft202012Validator(schema).iter_errors(body))
    if wrong is not None:
        place = ".".join(str(part) for part in wrong.absolute_path) or "the top"
        raise ScenarioError(f"{where}, {place}: {wrong.message}", hint="see docs/loadtest.md")
    parts: dict[str, Any] = body
    traffic, count = parts["traffic"], parts["adapters"]["count"]
    if traffic.get("mix") == "distinct" and traffic["requests"] > count:
        raise ScenarioError(
            f"{where}: {traffic['requests']} distinct requests need as many adapters, and there are {count}",
            hint="raise adapters.count, or take the mix round-robin",
        )
    return Scenario(
        name=parts["name"],
        description=" ".join(parts["description"].split()),
        adapters=Adapters(**parts["adapters"]),
        traffic=Traffic(**parts["traffic"]),
        churn=Churn(**parts["churn"]) if "churn" in parts else None,
        audit=Audit(**parts["audit"]) if "audit" in parts else None,
        flood=Flood(**parts["flood"]) if "flood" in parts else None,
        slo=Slo(**parts["slo"]) if "slo" in parts else None,
        catalogue=Catalogue(**parts["catalogue"]) if "catalogue" in parts else None,
        rounds=parts.get("rounds", 5),
        engine=tuple(parts.get("engine", ())),
    )
