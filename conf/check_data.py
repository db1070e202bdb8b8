"""Refusals that concern the corpus: files, columns, what each kind of corpus cannot have."""

import os
from pathlib import Path

from ..errors import UserError
from ..spelling import plain
from ..strategies.own import located
from .schema import Settings


def check_data(settings: Settings) -> None:
    data = settings.data
    if data.corpus == "own":
        _check_own_corpus(settings)
        return
    if data.code is not None:
        raise UserError(f"data.code with data={data.corpus}: it would be ignored", "choose data=own, or set it to null")
    if data.corpus != "files":
        if data.package is None:
            raise UserError(f"data.corpus={data.corpus} without data.package", f"choose data={data.corpus}")
        for key in ("rows_per_organization", "dominance", "skew", "test_rows"):
            if getattr(data, key) is None:
                raise UserError(f"data.{key} is null, but data.corpus={data.corpus} is split by it", f"set data.{key}")
        if data.corpus != "clauses" and data.skew == "family":
            raise UserError(
                f"data.skew=family with data.corpus={data.corpus}: only clauses have families", "set data.skew=label"
            )
        task = "text" if data.corpus == "phenotypes" else "labels"
        if data.task != task:
            raise UserError(
                f"data.task={data.task} with data.corpus={data.corpus}, whose answers are {task}",
                f"set data.task={task}",
            )
        if not data.public_test:
            raise UserError(
                f"data.public_test=false with data.corpus={data.corpus}, which anybody may read",
                "set data.public_test=true",
            )
        if data.public_system is not None:
            raise UserError(
                f"data.public_system with data.corpus={data.corpus}: it would be ignored", "set data.public_system=null"
            )
        if data.turns != "last":
            raise UserError(
                f"data.turns=all with data.corpus={data.corpus}, without conversations", "set data.turns=last"
            )
        if data.files or data.test_file is not None or data.validation_file is not None:
            raise UserError(f"data.files with data.corpus={data.corpus}: they would be ignored", "choose data=files")
        return
    if data.organizations != len(data.files):
        raise UserError(
            f"data.organizations={data.organizations}, but data.files lists {len(data.files)}",
            "list one file an organization, or set data.organizations=null",
        )
    places = [_place(file) for file in data.files]
    if len(set(places)) != len(places):
        raise UserError("data.files lists a file twice", "give each organization a file of its own")
    if data.test_file is None:
        raise UserError("data.corpus=files without data.test_file", "set data.test_file")
    if _place(data.test_file) in places:
        raise UserError(f"data.test_file={data.test_file} is also an organization's file", "keep the test rows apart")
    if data.validation_file is not None and _place(data.validation_file) in (*places, _place(data.test_file)):
        raise UserError(
            f"data.validation_file={data.validation_file} is also an organization's file or the test file",
            "keep the validation rows apart, or set it to null",
        )
    for key in ("skew", "dominance", "rows_per_organization"):
        if getattr(data, key) is not None:
            raise UserError(f"data.{key} with data.corpus=files: your files are the split", f"set data.{key}=null")
    if data.turns == "all" and data.form != "messages":
        raise UserError(
            f"data.turns=all with data.form={data.form}, whose rows have one answer each",
            "set data.turns=last, or data.form=messages",
        )
    if data.turns == "all" and data.rows_are_units:
        raise UserError(
            "data.turns=all with data.rows_are_units=true: the answers of one conversation would be units apart",
            "set data.rows_are_units=false and data.columns.unit=null, so that each conversation is a unit",
        )
    required = {"instruction": ("prompt", "answer"), "completion": ("prompt", "answer"), "messages": ("messages",)}
    for column in required[data.form]:
        if getattr(data.columns, column) is None:
            raise UserError(
                f"data.columns.{column} is null, but data.form={data.form} needs it",
                f"set data.columns.{column} to the column's name",
            )


def _check_own_corpus(settings: Settings) -> None:
    """What a function builds is all that there is of it."""
    data = settings.data
    if data.code is None:
        raise UserError("data=own without data.code", "set data.code=FILE.py:function")
    located(data.code)
    for key in ("package", "skew", "test_file", "validation_file", "public_file", "public_system"):
        if getattr(data, key) is not None:
            raise UserError(f"data.{key} with data=own: it would be ignored", f"set data.{key}=null")
    if data.files:
        raise UserError("data.files with data=own: they would be ignored", "choose data=files")


def _place(file: Path) -> str:
    """One spelling for all paths to a file: without links and dots, and for file systems that take forms as one."""
    return plain(os.path.realpath(file))
