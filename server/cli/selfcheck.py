"""`lorecall selfcheck`."""

from lorecall.server.cli.common.options import LOCAL, AsJson, Server
from rich.console import Console
from rich.table import Table


def selfcheck(
    server: Server = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Measure how much a running engine's log-probabilities vary; audits use the result as their margin ε."""
    from lorecall.server.cli.common.client import call
    from lorecall.server.cli.common.console import print_json

    found = call(server, "GET", "/v1/engine/selfcheck")
    if as_json:
        print_json(found)
        return
    table = Table("compared with the text scored alone", "tokens", "largest |Δ log p|", "mean")
    for name, check in found["checks"].items():
        table.add_row(name, str(check["tokens"]), f"{check['largest']:.2e}", f"{check['mean']:.2e}")
    console = Console()
    console.print(table)
    console.print(f"ε = {found['epsilon']:.2e}: certified over p > {found['threshold']:.4f}")
    console.print(f"over {', '.join(found['models'])}", markup=False)
