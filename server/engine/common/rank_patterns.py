"""Matches `rank_pattern` and `alpha_pattern` with expressions that are compiled once.

vLLM 0.32 has the expressions compiled again for each module once there are more than the 500 that its library
remembers. An adapter of EVA has one for every module, and would hold up the engine until all of that is done.
"""

from lorecall.adapters.peft_format.patterns import matching
from lorecall.server.engine.common.plugin import require


def apply() -> None:
    """Give vLLM's reader of configurations our matching, which follows the same rule."""
    from vllm.lora.peft_helper import PEFTHelper

    require(PEFTHelper, "_match_pattern", ("pattern", "name"))
    PEFTHelper._match_pattern = staticmethod(lambda pattern, name: next(matching(pattern, name), None))
