"""`qwen-appliance key add | list | remove`: who has an API key."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from appliance.access.key_file import KeyRecord, is_name, locked, make_key, read_keys, write_keys
from appliance.access.place import SETTING, own_file, with_key_file
from appliance.config import FILE_VARIABLE, load_config
from appliance.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own verbs; each sets `run`."""
    verbs = parser.add_subparsers(required=True, metavar="add|list|remove")
    add = verbs.add_parser("add", help="make a key, show it once and keep its hash")
    add.set_defaults(run=_add)
    listing = verbs.add_parser("list", help="names and days; the keys themselves are not known")
    listing.set_defaults(run=_list)
    remove = verbs.add_parser("remove", help="let a key count no more")
    remove.set_defaults(run=_remove)
    for verb in (add, remove):
        verb.add_argument("name", metavar="NAME", help="whose key it is")
    for verb in (add, listing, remove):
        verb.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"the service's YAML file (otherwise ${FILE_VARIABLE}, or the usual place)",
        )
        verb.add_argument(
            "--file", type=Path, metavar="KEYS", help=f"the file of keys (otherwise {SETTING})"
        )


def _add(args: argparse.Namespace) -> int:
    if not is_name(args.name):
        raise ConfigError(
            "NAME", args.name, "expected up to 64 letters, digits, dots, dashes and underscores"
        )
    path = _file(args)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path):
            records = _read(path) if os.path.exists(path) else []
            if args.name in {record.name for record in records}:
                raise ConfigError("NAME", args.name, f"has a key in {path}; remove it first")
            key, record = make_key(args.name)
            write_keys(path, [*records, record])
    except OSError as error:
        raise _unusable(path, error) from None
    sys.stdout.write(f"{key}\n")
    sys.stderr.write(
        f"The key of {args.name}, shown this once; its hash is in {path}. A service that reads "
        "that file takes the key at once, one that began without keys when started again.\n"
    )
    return 0


def _list(args: argparse.Namespace) -> int:
    path = _file(args)
    for record in _read(path) if os.path.exists(path) else []:
        sys.stdout.write(f"{record.name}  {record.created}\n")
    return 0


def _remove(args: argparse.Namespace) -> int:
    path = _file(args)
    try:
        with locked(path):
            records = _read(path)
            left = [record for record in records if record.name != args.name]
            if len(left) == len(records):
                known = ", ".join(record.name for record in records) or "nobody"
                raise ConfigError("NAME", args.name, f"has no key in {path}; {known} has")
            write_keys(path, left)
    except OSError as error:
        raise _unusable(path, error) from None
    sys.stderr.write(f"removed {args.name} from {path}\n")
    return 0


def _file(args: argparse.Namespace) -> Path:
    """The file that is meant: named, or set, or found, or else the user's own."""
    if args.file is not None:
        return Path(args.file)
    loaded = with_key_file(load_config(args.config, os.environ, {}), os.environ)
    return loaded.config.server.api_keys_file or own_file(os.environ)


def _read(path: Path) -> list[KeyRecord]:
    try:
        return read_keys(path)
    except OSError as error:
        raise _unusable(path, error) from None
    except ValueError as error:
        raise ConfigError(SETTING, str(path), f"cannot be used: {error}") from None


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(SETTING, str(path), f"cannot be used: {error.strerror or error}")
