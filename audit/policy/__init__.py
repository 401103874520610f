"""The gate: from an audit's result to a yes or no that can stop a release."""

__all__ = ["decoding", "gate", "policy", "policy_file"]
