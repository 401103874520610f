"""`lorecall registry migrate`, as the chart's migration hook runs it."""

from pathlib import Path

import lorecall.adapters.registry.migrations.versions as shipped
import pytest
from lorecall.adapters.core.errors import UsageError
from lorecall.adapters.registry.registry import Registry
from lorecall.server.cli.main import app
from typer.testing import CliRunner


def newest() -> str:
    """Return the number of the newest migration in the package."""
    return max(path.name for path in Path(shipped.__path__[0]).glob("0*.py")).partition("_")[0]


def migrate(url: str) -> str:
    """Run the command as the hook does, its URL in the environment; return what it printed."""
    done = CliRunner().invoke(
        app, ["registry", "migrate"], env={"LORECALL_REGISTRY": url}, catch_exceptions=False
    )
    assert done.exit_code == 0
    return done.stdout.strip()


def test_an_empty_database_gets_the_newest_schema(tmp_path: Path) -> None:
    """It prints the newest revision, does it again without harm, and a registry works on what it made."""
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    assert migrate(url) == migrate(url) == newest()
    assert Registry(url).revision() >= 0


def test_a_url_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A wrong URL is an error with what would be right, not an empty database somewhere."""
    with pytest.raises(UsageError, match="mysql"):
        migrate(f"mysql:///{tmp_path}")
