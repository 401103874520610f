"""The law of each candidate set, and what it predicts of every audited rank beside what was measured."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from lorecall.audit.law.forms import Cell, LawFitError
from lorecall.audit.law.recall import MIN_RANKS, Held, Recall, fit_recall, left_out_ranks

LEAST_P = 1e-6
"""Of the base; what a report gives as 0 is no smaller."""
CURVE_POINTS = 24
MOST_LINES = 500
"""Of a set; the first ones stand for all."""
DRAWS = 200
KEPT = 64

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Audited:
    """One adapter's audit: its rank, and the entries of its report as JSON values."""

    adapter: str
    rank: float
    entries: Entries


def common_lines(audits: Sequence[Audited]) -> tuple[list[Held], list[str]]:
    """Return what each adapter holds of the candidates that all of them scored, and those candidates' ids.

    Raises:
        LawFitError: They have no candidate in common.
    """
    scored = [{str(one["id"]): one for one in audit.entries if _is_scored(one)} for audit in audits]
    ids = [
        key
        for key, one in (scored[0].items() if scored else ())
        if all(key in other and len(other[key]["tokens"]) == len(one["tokens"]) for other in scored)
    ]
    if not ids:
        raise LawFitError("the audits share no scored candidate", hint="audits of one set of candidates")
    return [
        _held(audit, [entries[key] for key in ids]) for audit, entries in zip(audits, scored, strict=True)
    ], ids


def _is_scored(entry: Mapping[str, Any]) -> bool:
    tokens = entry.get("tokens") or ()
    return entry["set"] == "candidates" and len(tokens) > 0 and all(t["base_p"] is not None for t in tokens)


def _held(audit: Audited, entries: Entries) -> Held:
    sizes = np.array([len(entry["tokens"]) for entry in entries])
    losses, caps = (np.array([entry[name] for entry in entries]) for name in ("loss", "base_loss"))
    locked = [np.isin(np.arange(len(entry["tokens"])), entry["locked"]) for entry in entries]
    return Held(
        adapter=audit.adapter,
        rank=audit.rank,
        line=np.repeat(np.arange(len(entries)), sizes),
        base_loss=-np.log([max(token["base_p"], LEAST_P) for entry in entries for token in entry["tokens"]]),
        locked=np.concatenate(locked),
        loss=max(0.0, float(sizes @ losses / sizes.sum())),
        cap=float(sizes @ caps / sizes.sum()),
    )


def describe(fitted: Recall, sweep: Sequence[Cell] = (), confidence: float = 0.95) -> dict[str, Any]:
    """Return the JSON values of a fitted set: constants, quality, each rank, and the curve between them."""
    low, high = fitted.held[0].rank, fitted.held[-1].rank
    law = fitted.law
    return {
        "constants": {
            name: {"value": float(value), **asdict(law.bootstrap(name, confidence))}
            for name, value in zip(law.form.names, law.values, strict=True)
        },
        "r_squared": law.r_squared,
        "noise": law.noise,
        "cap": fitted.held[0].cap,
        "cells": len(law.cells),
        "shift": fitted.shift,
        "calibration_error": fitted.calibration_error(),
        "confidence": confidence,
        "lines": int(fitted.held[0].line.max()) + 1,
        "tokens": len(fitted.held[0].line),
        "ranks": [
            _rank(one, fitted, left_out, confidence)
            for one, left_out in left_out_ranks(fitted.held, sweep, draws=len(fitted.draws), seed=law.seed)
        ],
        "curve": [
            asdict(fitted.at(float(rank), confidence)) for rank in np.geomspace(low, high, CURVE_POINTS)
        ],
    }


def _rank(one: Held, fitted: Recall, left_out: Recall | None, confidence: float) -> dict[str, Any]:
    return {
        "adapter": one.adapter,
        "rank": one.rank,
        "delta_loss": one.cell.delta_loss,
        "fitted_delta_loss": fitted.loss_at(one.rank),
        "tokens": float(one.locked.mean()),
        "lines": one.lines,
        "fitted": asdict(fitted.at(one.rank, confidence)),
        "left_out": None if left_out is None else asdict(left_out.at(one.rank, confidence)),
    }


@dataclass(frozen=True, slots=True)
class SetLaws:
    """The laws of candidate sets, each fitted once for the audits that it rests on."""

    _kept: OrderedDict[tuple[str, ...], dict[str, Any]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(
        self, rows: Sequence[Mapping[str, Any]], entries: Callable[[str, int], Entries]
    ) -> list[dict[str, Any]]:
        """Return the law of each candidate set, from the newest audit of each adapter on it.

        Args:
            rows: As `GET /v1/capacity` lists them, oldest first.
            entries: Returns the first entries of an audit, by its id.
        """
        sets: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in rows:
            sets.setdefault(row["candidate_set"], {})[row["adapter"]] = row
        return [
            {"candidate_set": digest, **self._law(list(newest.values()), entries)}
            for digest, newest in sets.items()
        ]

    def _law(
        self, rows: Sequence[Mapping[str, Any]], entries: Callable[[str, int], Entries]
    ) -> dict[str, Any]:
        key = tuple(sorted(str(row["audit_id"]) for row in rows))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _fit(rows, entries)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def _fit(rows: Sequence[Mapping[str, Any]], entries: Callable[[str, int], Entries]) -> dict[str, Any]:
    """Return the law of one set, or the reason why there is none."""
    if len({row["rank"] for row in rows}) < MIN_RANKS:
        return {"law": None, "reason": f"audits of fewer than {MIN_RANKS} ranks"}
    try:
        audits = [Audited(row["adapter"], row["rank"], entries(row["audit_id"], MOST_LINES)) for row in rows]
        held, _ = common_lines(audits)
        return {"law": finite(describe(fit_recall(held, draws=DRAWS))), "reason": ""}
    except LawFitError as error:
        return {"law": None, "reason": str(error)}


def finite(value: Any) -> Any:
    """Return JSON values with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
