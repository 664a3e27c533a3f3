"""Results: read from run folders, by numpy alone."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from . import _engine, _folders, _tables
from ._errors import UsageError, in_words
from ._words import say

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas
    import xarray

_NULL_IS_INFINITE = frozenset({"radius", "radius_error_nats", "cost", "log_volume"})
_OF_SEQUENCES = ("tokens", "log_volume", "low", "high", "mean_log_volume", "standard_error")


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The local volume by one estimator, as its run folder has it.

    Frozen, and loadable without torch (:func:`basin_volume.load`). All logarithms are natural: costs, log-volumes and intervals are in nats.
    """

    folder: Path
    """The run folder: `manifest.json`, `samples.jsonl`, `result.json`, figures."""
    estimator: str
    """`radial`, `spectral`, `annealed` or `llc`."""
    name: str
    """The estimator with what tells several of its runs apart: ``radial, fisher``."""
    measures: str
    """Which set: `star`, `basin` or `ellipsoid`; `posterior` for a learning coefficient, which is of none."""
    quantity: str
    """What the logarithm is of, in words."""
    log_probability: float
    """The log of the prior mass of the set, nats (of its volume under the flat prior); NaN where there is none."""
    interval: tuple[float | None, float | None]
    """Both ends of the interval, nats (of a learning coefficient, without a unit), where they are known."""
    trust: str
    """How far the number can be believed: ``answer``, ``lower bound in practice``, ``upper bound in practice``, ``guide only``, ``not an answer``."""
    reasons: tuple[str, ...]
    """Why it is not trusted more, the gravest first, and what else is to be known."""
    bits_per_parameter: float | None
    """The description length, ``-log_probability / (D ln 2)``, bits per weight."""
    seconds: float
    """Wall-clock seconds spent."""
    gradients: int
    """Gradients of the cost computed."""
    evaluations: int
    """Evaluations of the cost."""
    diagnostics: Mapping[str, Any]
    """The estimator's own block of `result.json`."""
    manifest: Mapping[str, Any]
    """What was asked, and with what it was computed."""
    data: str | None = None
    """Which of several data; `all N` for the set on all of them."""
    learning_coefficient: float | None = None
    """The local learning coefficient of the estimator `llc`, whose `log_probability` is NaN; None of the others."""
    interrupted: bool = False
    """Whether the work was stopped before it was complete."""

    @property
    def log_volume(self) -> float:
        """The same number under the flat prior's name, nats."""
        return self.log_probability

    @property
    def dimension(self) -> int:
        """Number of weights that move, D."""
        return int(self.manifest["dimension"])

    @property
    def cutoff(self) -> float:
        """The cost at which behaviour counts as changed, nats."""
        return float(self.manifest["cutoff"])

    @property
    def sigma(self) -> float | None:
        """Standard deviation of the Gaussian prior; None under another prior."""
        sigma = self.manifest.get("sigma")
        return None if sigma is None else float(sigma)

    @cached_property
    def records(self) -> tuple[Mapping[str, Any], ...]:
        """The lines of `samples.jsonl` in the order of their indices."""
        path = self.folder / "samples.jsonl"
        if not path.exists():
            return ()
        text = path.read_text(encoding="utf-8")
        # A line without its end was cut short when the run was killed.
        complete = text[: text.rfind("\n") + 1].splitlines()
        return tuple(sorted((json.loads(line) for line in complete if line), key=lambda record: int(record.get("index", 0))))

    @cached_property
    def samples(self) -> dict[str, npt.NDArray[Any]]:
        """The records as arrays by the names of their fields: a row per ray, recursion, or trajectory of a chain.

        Rays: `radius` and `evaluated_radius` in units of the direction ``v``, `norm` of it, `cost` and `log_volume` in nats, `outcome` in words,
        `costs_by_part` [rays, parts] where they were asked for, and so `radius_by_part` and `log_volume_by_part`. Chains: `cost`, `overlap`, `distance_squared`, ... of every trajectory with its
        `phase`, `rung`, `chain`, `beta` and `localization`.
        """
        if self.estimator in _tables.CHAINS:
            return _tables.trajectories(self.records)
        return _tables.columns([_tables.flat(record) for record in self.records], _NULL_IS_INFINITE)

    @property
    def sequences(self) -> pandas.DataFrame:
        """With ``per_sequence="volume"``: a table of the sequences, those of the largest volume first.

        `sequence` is the index in the data; `log_volume` with `low` and `high`, `mean_log_volume` and its `standard_error` are in nats.
        """
        import pandas

        path = self.folder / "sequences.csv"
        if not path.exists():
            raise UsageError('there are no volumes of sequences: ask for them with per_sequence="volume"')
        return pandas.read_csv(path, keep_default_na=False, na_values={name: [""] for name in _OF_SEQUENCES})

    def summary(self) -> str:
        """The table and words that the command line shows."""
        return _folders.shown(self.folder)

    def save_page(self, file: str | PathLike[str]) -> Path:
        """Writes a page (HTML) that needs nothing but itself; gives its path."""
        return _folders.write_page(self.folder, file)

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draws the figure of the report with matplotlib (on `ax`, or a new one): log-volumes, the ladder, or the spectrum."""
        from . import _plots

        return _plots.draw(self, ax)

    def to_dataframe(self) -> pandas.DataFrame:
        """:attr:`samples` as a pandas table: one row per ray, recursion, or trajectory."""
        import pandas

        flat = {name: list(values) if values.ndim > 1 else values for name, values in self.samples.items()}
        return pandas.DataFrame(flat)

    def to_datatree(self) -> xarray.DataTree:
        """The samples as an xarray tree in the manner of ArviZ: `posterior` and `sample_stats`.

        Chains have the dimensions chain and draw, with `rung`, `beta`, `gamma` (the spring) and `phase` as coordinates of the draws; rays are draws of
        one chain. The manifest stands in the attributes.
        """
        return _tables.tree(self)

    def __repr__(self) -> str:
        return f"<Result {self._sentence()}>"

    def _sentence(self) -> str:
        low, high = (None if end is None else f"{end:,.2f}" for end in self.interval)
        interval = f"[{low or 'unknown'}, {high or 'unknown'}]"
        number = "no number" if math.isnan(self.log_probability) else f"{self.log_probability:,.2f} nats"
        if self.learning_coefficient is not None:
            number = f"learning coefficient {self.learning_coefficient:,.2f}"
        on = f" on {self.data}" if self.data else ""
        stopped = ", interrupted" if self.interrupted else ""
        return f"{self.name}{on}: {number} {interval} for the {self.measures}; {self.trust}{stopped}"

    def _repr_html_(self) -> str:
        return _page([self], "")


class Results(Sequence[Result]):
    """Several results of one question: by preconditioners, estimators, or data. A sequence that is also read by name: ``results["spectral"]``."""

    def __init__(self, folder: Path, results: Sequence[Result], verdict: str, comparison: Mapping[str, Any]) -> None:
        self.folder = folder
        self.verdict = say(verdict)
        """Which of the numbers to trust, in words."""
        self.comparison = MappingProxyType(dict(comparison))
        """What they say side by side: of several data also how these depend on each other."""
        self._results = tuple(results)

    @property
    def interrupted(self) -> bool:
        """Whether the work was stopped before all of it was complete."""
        return any(result.interrupted for result in self)

    @overload
    def __getitem__(self, which: int | str) -> Result: ...
    @overload
    def __getitem__(self, which: slice) -> Sequence[Result]: ...
    def __getitem__(self, which: int | str | slice) -> Result | Sequence[Result]:
        if not isinstance(which, str):
            return self._results[which]
        for result in self:
            if which in (result.name, result.data, result.folder.name) or (which == result.estimator and len(self._of(which)) == 1):
                return result
        names = ", ".join(result.data or result.folder.name for result in self)
        raise KeyError(f"there is no result {which!r}: expected one of {names}")

    def _of(self, estimator: str) -> list[Result]:
        return [result for result in self if result.estimator == estimator]

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    @property
    def sequences(self) -> pandas.DataFrame:
        """With ``per_sequence="volume"``: a table of the sequences, those of the largest volume first.

        `sequence` is the index in the data; `log_volume` with `low` and `high`, `mean_log_volume` and its `standard_error` are in nats.
        """
        import pandas

        path = self.folder / "sequences.csv"
        if not path.exists():
            raise UsageError('there are no volumes of sequences: ask for them with per_sequence="volume"')
        return pandas.read_csv(path, keep_default_na=False, na_values={name: [""] for name in _OF_SEQUENCES})

    def summary(self) -> str:
        """The tables and words that the command line shows."""
        return _folders.shown(self.folder)

    def save_page(self, file: str | PathLike[str]) -> Path:
        """Writes a page (HTML) that needs nothing but itself; gives its path."""
        return _folders.write_page(self.folder, file)

    def __repr__(self) -> str:
        lines = "\n ".join(result._sentence() for result in self)
        return f"<Results\n {lines}\n {self.verdict}>"

    def _repr_html_(self) -> str:
        return _page(list(self), self.verdict)


def _page(results: Sequence[Result], verdict: str) -> str:
    """A table for notebooks."""
    rows = []
    for result in results:
        low, high = ("" if end is None else f"{end:,.2f}" for end in result.interval)
        name = f"{result.name} on {result.data}" if result.data else result.name
        number = result.log_probability if result.learning_coefficient is None else result.learning_coefficient
        cells = [name, f"{number:,.2f}", f"{low} to {high}", result.measures, result.trust]
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "log probability, nats" if all(result.learning_coefficient is None for result in results) else "estimate"
    heads = "".join(f"<th>{head}</th>" for head in ("estimator", head, "interval", "set", "trust"))
    words = "".join(f"<p>{html.escape(text)}</p>" for text in ([verdict] if verdict else [say(r) for result in results for r in result.reasons[:1]]))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>{words}"


_TRUST = MappingProxyType(
    {
        "answer": "answer",
        "lower-bound": "lower bound in practice",
        "upper-bound": "upper bound in practice",
        "guide": "guide only",
        "not-an-answer": "not an answer",
    }
)


def _result(run: Mapping[str, Any]) -> Result:
    answer = run["answer"]
    number = answer["log_probability"]
    result = Result(
        folder=Path(run["folder"]),
        estimator=run["estimator"],
        name=answer["estimator"],
        measures=answer["measures"],
        quantity=answer["quantity"],
        log_probability=math.nan if number is None else float(number),
        interval=(answer["interval"][0], answer["interval"][1]),
        trust=_TRUST.get(answer["trust"], answer["trust"]),
        reasons=tuple(say(reason) for reason in answer["reasons"]),
        bits_per_parameter=answer["bits_per_parameter"],
        seconds=answer["seconds"],
        gradients=answer["gradients"],
        evaluations=answer["evaluations"],
        diagnostics=MappingProxyType(run["block"]),
        manifest=MappingProxyType(run["manifest"]),
        data=run["data"],
        learning_coefficient=answer.get("learning_coefficient"),
    )
    return replace(result, interrupted=not _is_complete(result))


def _is_complete(result: Result) -> bool:
    """Whether the folder has everything that was asked of it."""
    if result.estimator in _tables.CHAINS:
        return bool(result.diagnostics.get("complete", True))
    if result.estimator != "radial":
        return True
    index, count = (int(part) for part in str(result.manifest["shard"]).split("/"))
    return len(result.records) >= len(range(index, int(result.manifest["samples"]), count))


def load(folder: str | PathLike[str]) -> Result | Results:
    """What a run folder holds, computed again from its manifest and samples; a live or a killed run is read as far as it has come.

    A folder of one run gives a :class:`Result`, one of several (preconditioners, estimators, data) :class:`Results`. Needs no torch.
    """
    with in_words():
        found = json.loads(_engine.read(folder))
    if found["kind"] == "scan":
        raise _engine.UsageError(f"{folder} is a scan: read it with basin_volume.load_scan()")
    results = [_result(run) for run in found["runs"]]
    if len(results) == 1 and not found["is_together"]:
        return results[0]
    comparison = found["comparison"] if isinstance(found["comparison"], dict) else {"runs": found["comparison"]}
    return Results(Path(found["folder"]), results, found["verdict"], comparison)
