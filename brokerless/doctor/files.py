"""What a bus keeps in files: the user's private directory, keys, the registry."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from brokerless.doctor.findings import Finding, failed_by, failure, ok, skipped, warning
from brokerless.errors import BusError, ConfigError, IdentityInUse, StartError
from brokerless.identity import Identity
from brokerless.private_files import (
    create_locked_file,
    is_locked,
    make_private_directory,
    open_private_file,
)
from brokerless.trust import MeshTrust, mesh_key, private_directory

if TYPE_CHECKING:
    from brokerless.config import NodeConfig

PROBE_SUFFIX = ".doctor"
"""Of the file that the lock is tried on; a registry looks at others only."""


@dataclass(slots=True)
class Keys:
    """What was found of directory, mesh and identity, and None where that failed."""

    directory: Path | None = None
    trust: MeshTrust | None = field(default=None, repr=False)
    identity: Identity | None = None
    is_identity_ours: bool = False
    """It is to be released by us."""

    def release(self) -> None:
        """Let go of the identity, if we took it."""
        if self.identity is not None and self.is_identity_ours:
            self.identity.release()


def examine_files(config: NodeConfig) -> tuple[list[Finding], Keys]:
    """Examine the files that a bus of that configuration starts from. They may be slow: not on the loop."""
    keys = Keys()
    return [_directory(config, keys), _trust(config, keys), _identity(config, keys)], keys


def _directory(config: NodeConfig, keys: Keys) -> Finding:
    name = "private directory"
    try:
        if config.directory is None:
            keys.directory = private_directory()
        else:
            keys.directory = make_private_directory(Path(config.directory).absolute())
    except StartError as error:
        return failed_by(name, error, "set directory= to one of your own, on a local disk")
    return ok(name, f"{keys.directory}, which only this user can enter")


def _trust(config: NodeConfig, keys: Keys) -> Finding:
    name = "mesh secret"
    if keys.directory is None and config.secret is None and config.trust is None:
        return skipped(name, "without a secret, its place is taken by a key file in the private directory")
    try:
        trust = keys.trust = mesh_key(config.mesh, config.secret, config.trust, keys.directory)
    except BusError as error:
        return failed_by(name, error)
    if trust.scope == "host":
        return warning(
            name,
            f"none for mesh {config.mesh!r}: only this user's processes on this host can join",
            "to reach further, give all members the same secret",
        )
    if trust.scope == "open":
        return warning(name, f"mesh {config.mesh!r} is open: anybody may join", "give all members a secret")
    return ok(name, f"given, for mesh {config.mesh!r}; all members need the same two")


def _identity(config: NodeConfig, keys: Keys) -> Finding:
    """Load it as a bus would, but make none: whose file is missing gets one when the bus starts."""
    name, given = "identity", config.identity
    if isinstance(given, Identity):
        keys.identity = given
        return ok(name, f"given, with the address {given.address.short}")
    keys.is_identity_ours = True
    if given is None or not Path(given).exists():
        keys.identity = Identity.generate()
        if given is None:
            return ok(name, "fresh for each run, so a ticket is worth nothing after a restart")
        if not Path(given).absolute().parent.is_dir():
            return failure(name, f"{given} cannot be made: there is no such directory", "make the directory")
        return ok(name, f"{given} does not exist yet; the bus makes it")
    try:
        keys.identity = Identity.load(given)
    except IdentityInUse:
        keys.identity = Identity.generate()
        return warning(
            name,
            f"{given} is in use by a running bus, so what follows is examined with a fresh one",
            "stop that bus to have all examined; each process needs an identity of its own",
        )
    except BusError as error:
        keys.identity = Identity.generate()
        return failed_by(name, error)
    return ok(name, f"{given}, with the address {keys.identity.address.short}")


def examine_registry_directory(config: NodeConfig, directory: Path | None) -> tuple[Finding, Path | None]:
    """Can the registry be written to, and do its locks hold? Returns where it is, if it is usable."""
    name = "registry directory"
    if "registry" not in config.discovery:
        return skipped(name, "the registry is not among the discoveries"), None
    if directory is None:
        return skipped(name, "it lies in the private directory"), None
    try:
        registry = make_private_directory(directory / "registry")
        is_exclusive = _try_lock_in(registry)
    except (ConfigError, StartError) as error:
        return failed_by(name, error), None
    except OSError as error:
        return failed_by(name, error, "set directory= to one of your own, on a local disk"), None
    if not is_exclusive:
        return (
            failure(
                name,
                f"{registry}: a locked file does not look locked to others",
                "this file system knows no locks: set directory= to one on a local disk",
            ),
            None,
        )
    return ok(name, f"{registry} can be written to, and its locks hold"), registry


def _try_lock_in(registry: Path) -> bool:
    path = registry / (secrets.token_hex(16) + PROBE_SUFFIX)
    file = create_locked_file(path, b"")
    try:
        with open_private_file(path) as other:
            return is_locked(other)
    finally:
        path.unlink(missing_ok=True)
        file.close()
