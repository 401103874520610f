"""vLLM's `bench serve` as a module, because the CPU wheel's `vllm` command fails on missing metadata.

Run as `python -m lorecall.server.bench.processes.load_client OPTION...`; every option is one of
`vllm bench serve`.
"""

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args())
