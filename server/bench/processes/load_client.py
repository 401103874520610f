"""vLLM's `bench serve` as a module: the console command of the CPU wheel asks for metadata that it lacks.

Run as `python -m lorecall.server.bench.processes.load_client OPTION...`; every option is one of
`vllm bench serve`.
"""

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args())
