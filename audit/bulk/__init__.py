"""Audits of many adapters on many snippets, on Ray: spread over workers, resumed after a kill."""

__all__ = ["cluster", "inputs", "plan", "reduce", "run", "sweep"]
