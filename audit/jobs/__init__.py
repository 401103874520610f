"""Audits as jobs in the registry's database: ordered, claimed, resumed, finished."""
