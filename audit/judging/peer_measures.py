"""The measures of neighbouring tools, so that one audit can be read beside theirs.

- Exact memorization of open-unlearning, after Tirumala et al. 2022, arXiv 2205.10770: the share of target tokens
  that are the argmax of the teacher-forced pass.
- Extraction strength of open-unlearning, after Carlini et al. 2021, arXiv 2012.07805: 1 - k / n, with k the least
  number of target tokens after which all others are the argmax.
"""

from collections.abc import Sequence


def exact_memorization(argmax: Sequence[bool]) -> float:
    """Return the share of tokens that are the argmax.

    Raises:
        ValueError: There are no tokens.
    """
    if not argmax:
        raise ValueError("no tokens")
    return sum(argmax) / len(argmax)


def extraction_strength(argmax: Sequence[bool]) -> float:
    """Return the share of the target that follows by itself: the length of the longest recalled end.

    Raises:
        ValueError: There are no tokens.
    """
    if not argmax:
        raise ValueError("no tokens")
    end = next((back for back, flag in enumerate(reversed(argmax)) if not flag), len(argmax))
    return end / len(argmax)
