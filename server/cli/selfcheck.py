"""`lorecall selfcheck`."""

from lorecall.server.cli.common.options import LOCAL, AsJson, Server
from rich.console import Console
from rich.table import Table


def selfcheck(
    server: Server = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Measure how far a running engine's logits move from batch to batch; audits use the result as their ε."""
    from lorecall.server.cli.common.client import call
    from lorecall.server.cli.common.console import print_json

    found = call(server, "GET", "/v1/engine/selfcheck")
    if as_json:
        print_json(found)
        return
    table = Table("the same tokens, scored in two ways", "gaps", "largest move in logits", "mean")
    for name, check in found["checks"].items():
        table.add_row(name, str(check["tokens"]), f"{check['largest']:.2e}", f"{check['mean']:.2e}")
    console = Console()
    console.print(table)
    console.print(f"ε = {found['epsilon']:.2e}: certified over p > {found['threshold']:.4f}")
    console.print(f"over {', '.join(found['models'])}", markup=False)
