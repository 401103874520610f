"""`lorecall adapters ...` against a running server with keys: the whole life of a name from the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lorecall.adapters.core.errors import LorecallError
from lorecall.server.cli.main import app
from typer.testing import CliRunner

from tests.adapters import people
from tests.server.pair import ADMIN, Pair

pytestmark = pytest.mark.engine


def run(pair: Pair, *words: str, secret: str = ADMIN) -> Any:
    """Run a command with --json against the first server, and return what it printed."""
    environ = {"LORECALL_SERVER": pair.a.url, "LORECALL_API_KEY": secret}
    done = CliRunner(env=environ).invoke(app, ["adapters", *words, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_life_of_a_name(pair: Pair, int8_adapters: list[Path]) -> None:
    """Add, pin, swap, roll back, show, list and remove do what they say."""
    (added,) = run(pair, "add", "spoken", "--source", str(int8_adapters[0]))
    assert (added["state"], added["rank"]) == ("live", 2)
    assert run(pair, "pin", "spoken")[0]["pinned"] is True
    (swapped,) = run(pair, "swap", "spoken", "--source", str(int8_adapters[1]))
    assert swapped["version"] != added["version"]
    assert run(pair, "rollback", "spoken")[0]["version"] == added["version"]
    (shown,) = run(pair, "show", "spoken")
    assert {one["version"] for one in shown["versions"]} == {added["version"], swapped["version"]}
    assert run(pair, "pin", "spoken", "--off")[0]["pinned"] is False
    assert "spoken" in [one["name"] for one in run(pair, "list")]
    assert run(pair, "rm", "spoken")[0]["state"] == "retired"
    with pytest.raises(LorecallError, match="spoken"):
        run(pair, "show", "spoken")


def test_an_adapter_of_another_trainer_is_converted_on_the_way_in(
    pair: Pair, int8_adapters: list[Path], tmp_path: Path
) -> None:
    """The folder that the server refuses goes live as the plain LoRA that it is."""
    folder = Path(shutil.copytree(int8_adapters[0], tmp_path / "mlx"))
    people.mlx()(folder)
    with pytest.raises(LorecallError, match="MLX"):
        run(pair, "add", "from-mlx", "--source", str(folder))
    (added,) = run(pair, "add", "from-mlx", "--source", str(folder), "--convert")
    assert (added["state"], added["rank"]) == ("live", 2)
    run(pair, "rm", "from-mlx")


def test_keys_from_the_command_line(pair: Pair) -> None:
    """A made key works within its patterns, is listed without its secret, and ends when revoked."""
    (made,) = run(
        pair, "keys", "add", "spoken-key", "--scope", "infer", "--adapter", "acme-*", "--concurrent", "2"
    )
    assert made["limits"]["concurrent"] == 2
    assert all(one["name"].startswith("acme-") for one in run(pair, "list", secret=made["secret"]))
    (listed,) = [one for one in run(pair, "keys", "list") if one["name"] == "spoken-key"]
    assert "secret" not in listed
    environ = {"LORECALL_SERVER": pair.a.url, "LORECALL_API_KEY": ADMIN}
    assert CliRunner(env=environ).invoke(app, ["adapters", "keys", "revoke", made["id"]]).exit_code == 0
    with pytest.raises(LorecallError, match="API key"):
        run(pair, "list", secret=made["secret"])


def test_swap_needs_the_name(pair: Pair, int8_adapters: list[Path]) -> None:
    """A name that does not exist is not made by accident."""
    with pytest.raises(LorecallError, match="never-was"):
        run(pair, "swap", "never-was", "--source", str(int8_adapters[0]))
