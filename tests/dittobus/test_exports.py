from __future__ import annotations

import asyncio
import builtins
import inspect
import pathlib
import re
import threading

import pytest

import brokerless
import dittobus
from brokerless import errors
from dittobus import aio, blocking, statistics, testing


def test_the_errors_are_the_same_in_both_packages() -> None:
    tree = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__
    }
    assert set(tree) <= set(dittobus.__all__)
    assert all(getattr(dittobus, name) is kind for name, kind in tree.items())


def test_the_bus_has_its_own_names_for_what_is_the_frameworks() -> None:
    assert dittobus.DittoAddress is brokerless.Address
    assert dittobus.DittoBusMessage is brokerless.Message
    assert dittobus.DittoBusReliability is brokerless.Reliability
    assert len(dittobus.generate_secret()) == 32
    assert dittobus.Identity is brokerless.Identity


def test_an_import_of_all_shadows_nothing_that_programs_use() -> None:
    taken = {name for module in (builtins, pathlib, asyncio, threading) for name in vars(module)}
    assert not taken & set(dittobus.__all__)
    assert dittobus.PeerPath is brokerless.Path


def test_other_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DittoBroker'"):
        _ = dittobus.DittoBroker


def test_both_faces_take_the_same_arguments() -> None:
    of_bus = inspect.signature(dittobus.DittoBus).parameters
    of_aio = inspect.signature(aio.Bus).parameters
    common = [name for name in of_aio if name != "io_thread"]  # the other face always has one
    assert list(of_bus) == [*common, "delegate", "delegate_event_queue"]
    assert all(of_bus[name].default == of_aio[name].default for name in common)
    assert all(f"\n    {name}: " in (inspect.getdoc(dittobus.DittoBus) or "") for name in of_bus)


PUBLIC = {
    getattr(module, name)
    for module in (dittobus, aio, blocking, statistics, testing)
    for name in module.__all__
    if inspect.isclass(getattr(module, name))
}


def test_help_describes_every_attribute_of_what_users_read() -> None:
    unsaid = [
        f"{kind.__name__}.{name}"
        for kind in PUBLIC
        for name in [*vars(kind).get("__annotations__", ()), *vars(kind).get("_member_names_", ())]
        if not re.search(rf"\b{name}\b", kind.__doc__ or "")
    ]
    assert not unsaid
