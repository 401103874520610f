# noqa: INP001  (a script, not a package)
"""Write what is drawn from the code: docs/cli.md, docs/settings.md, docs/modules.md and the JSON Schemas.

Run by `make docs`; tests/test_docs.py fails where a page differs from what this would write.
"""

import ast
import json
import sys
from pathlib import Path

import typer
from lorecall.audit.evidence.changes import Diff
from lorecall.audit.policy.policy_file import PolicyFile
from lorecall.audit.reports.matrix import MatrixReport
from lorecall.audit.reports.mitigation import MitigationReport
from lorecall.audit.reports.models import json_schema
from lorecall.audit.reports.ranks import RanksReport
from lorecall.audit.reports.report import Report
from lorecall.server.cli.main import app
from lorecall.server.settings import CLIENT_KEYS, PREFIX, ServerSettings
from typer.cli import get_docs_for_click

ROOT = Path(__file__).parents[1]
SCHEMAS = {
    "policy/policy": PolicyFile,
    "reports/schemas/report": Report,
    "reports/schemas/matrix": MatrixReport,
    "reports/schemas/ranks": RanksReport,
    "reports/schemas/mitigation": MitigationReport,
    "reports/schemas/diff": Diff,
}
"""The models whose JSON Schema is committed, by file below audit/."""
FLOORS = ("adapters", "audit", "server", "loadtest")
NOTICE = "<!-- Written by `make docs`; edit the code instead. -->\n\n"


def cli_page() -> str:
    """Return the help of every command."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="lorecall", title="The commands")
    return NOTICE + "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def settings_page() -> str:
    """Return every setting of the server with its meaning and default."""
    rows = []
    for name, field in sorted(ServerSettings.model_fields.items()):
        default = shown(field.get_default(call_default_factory=True))
        rows.append(f"| `{PREFIX}{name.upper()}` | {field.description} | `{default}` |")
    return (
        f"{NOTICE}# Settings\n\nThe server reads these from its environment. An unknown variable with this"
        " prefix, or a bad value, stops it at start with the variable's name.\n\n"
        "| variable | meaning | default |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
        f"The command line, as a client, reads {', '.join(f'`{key}`' for key in sorted(CLIENT_KEYS))}."
        " vLLM's own variables keep their names and meanings.\n"
    )


def shown(default: object) -> str:
    """Return a default as a page shows it: no home directory of this machine."""
    return str(default).replace(str(Path.home()), "~")


def modules_page() -> str:
    """Return one line per room and one per module: their docstrings' first."""
    parts = [NOTICE + "# The modules\n\nRoom by room; imports go down only: server, audit, adapters.\n"]
    for floor in FLOORS:
        for room in sorted(path.parent for path in (ROOT / floor).rglob("__init__.py")):
            name = room.relative_to(ROOT)
            parts.append(f"\n## {name}/\n\n{summary(room / '__init__.py')}\n")
            files = [path for path in sorted(room.glob("*.py")) if path.name != "__init__.py"]
            rows = [f"| [{path.name}](../{name}/{path.name}) | {summary(path)} |\n" for path in files]
            parts += ["\n| module | what it is |\n|---|---|\n", *rows] if rows else []
    return "".join(parts)


def summary(path: Path) -> str:
    """Return the first sentence or paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def pages() -> dict[Path, str]:
    """Return {path: text} of the generated files."""
    docs = ROOT / "docs"
    schemas = {
        ROOT / "audit" / f"{name}.schema.json": json.dumps(json_schema(model), indent=2) + "\n"
        for name, model in SCHEMAS.items()
    }
    return schemas | {
        docs / "cli.md": cli_page(),
        docs / "settings.md": settings_page(),
        docs / "modules.md": modules_page(),
    }


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
        sys.stderr.write(f"docs: {page.relative_to(ROOT)}\n")
