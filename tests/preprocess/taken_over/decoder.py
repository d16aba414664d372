"""The product's fork server, of which each decoder does what the file says, once a file begins with the mark."""

from __future__ import annotations

import builtins
import importlib
import os
from typing import Any

from services.preprocess.decoding import decoder, forkserver
from services.preprocess.decoding.jobs import Job
from services.preprocess.media.problems import MediaProblem, invalid
from services.preprocess.media.work import Work
from tests.preprocess.taken_over.escapes import attempt, open_descriptors

MARK = b"take over: "
_work_of = decoder.work_of
_kept: Any = builtins


def work_of(job: Job) -> Work:
    """Do what the job's file orders, and say what came of it in a refusal, as an attacker could."""
    file = job.files[0]
    if not file.startswith(MARK):
        return _work_of(job)
    order = bytes(file[len(MARK) :])
    if order == b"descriptors":
        raise invalid(str(open_descriptors()))
    if order.startswith(b"keep "):
        found, _kept.stolen = getattr(_kept, "stolen", None), order.decode()
        raise invalid(f"found {found}")
    if order == b"speak as the service":
        raise MediaProblem("no_such_code", "as the service")
    if order == b"die":
        os._exit(0)
    raise invalid(attempt(order))


def main(uid: int = 0) -> None:
    """Serve as the product does, as the user `uid`."""
    if uid:
        importlib.import_module("torch")  # that of films: the user may not read root's packages
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    decoder.work_of = work_of
    forkserver.main()
