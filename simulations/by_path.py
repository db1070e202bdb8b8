"""Corpora and metrics of one's own: functions named by path, for simulations, where nobody's records are at stake.

    data=own data.code=reports.py:build                     build(partition) -> Corpus
    'simulation.metrics=[metrics.py:balanced_accuracy]'     balanced_accuracy(right, given) -> number

Such code is run as any script of the researcher's is. No charter names it and no node loads it.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.corpora.corpus import Corpus
from ..data.corpora.partition import Partition
from ..errors import UserError
from ..strategies.own import located


def function(place: str) -> Callable[..., Any]:
    """The function that a place names.

    Raises:
        UserError: there is no such file, module or function, or the file fails while it is run.
    """
    file, name = located(place)
    known = f"cotune_by_path_{file.stem}"
    spec = importlib.util.spec_from_file_location(known, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UserError(f"{file}: no such file", "give the file of the function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        raise UserError(f"{file}: {_said(problem)}", "correct the file") from problem
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{file} has no function {name}", "name one of its functions")
    return found  # type: ignore[no-any-return]


def own_corpus(place: str, partition: Partition, task: str) -> Corpus:
    """The corpus that a function of one's own builds.

    Args:
        place: of a function that takes a `Partition` and gives a `Corpus`. task: "labels" or "text", as set.

    Raises:
        UserError: it fails, gives something else, or its labels are not those of the task.
    """
    build = function(place)
    try:
        corpus = build(partition)
    except UserError:
        raise
    except Exception as problem:
        raise UserError(f"{place}: {_said(problem)}", "correct the function") from problem
    if not isinstance(corpus, Corpus):
        raise UserError(f"{place} gives a {type(corpus).__name__}", "let it return data.corpora.partition.Corpus")
    if len(corpus.organizations) != partition.organizations:
        raise UserError(
            f"{place} deals to {len(corpus.organizations)} organizations, {partition.organizations} are asked for",
            "deal to partition.organizations",
        )
    if not corpus.test or not all(corpus.organizations.values()):
        raise UserError(f"{place} leaves the test set or an organization without a record", "deal some to each")
    if bool(corpus.labels) != (task == "labels"):
        raise UserError(
            f"{place} gives {len(corpus.labels)} labels with data.task={task}",
            "set data.task=labels for a fixed set of answers, data.task=text for none",
        )
    return corpus


def measures(places: Sequence[str], right: Sequence[str], given: Sequence[str]) -> Mapping[str, float]:
    """What metrics of one's own say, by the name of the function.

    Args:
        places: of functions that take (right, given) and give one number. right, given: answers, row by row.

    Raises:
        UserError: one fails, or gives no finite number; or two have the same name.
    """
    found: dict[str, float] = {}
    for place in places:
        name = place.rpartition(":")[2]
        try:
            value = float(function(place)(list(right), list(given)))
        except UserError:
            raise
        except Exception as problem:
            raise UserError(f"{place}: {_said(problem)}", "correct the metric") from problem
        if not math.isfinite(value):
            raise UserError(f"{place} gives {value}", "let it return a finite number")
        found[name] = value
    return found


def _said(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
