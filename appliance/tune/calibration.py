"""The calibration file: what was measured, on what, and the settings that follow from it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

import msgspec

from appliance.backends.compile_options import default_cache_dir
from appliance.config import EngineConfig
from appliance.errors import ApplianceError
from appliance.tune.identity import Identity

FORMAT = 1
TUNED_SETTINGS = frozenset(
    {
        "engine.dynamic_quantization_group_size",
        "engine.inference_precision",
        "engine.kv_cache_precision",
        "engine.max_draft_tokens",
        "engine.num_threads",
        "engine.prefill_chunk",
        "engine.prompt_lookup",
    }
)
"""What a calibration may set: a file that sets anything else is not one of ours."""

_LARGEST_BYTES = 1_000_000
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")


class UnusableCalibrationError(ApplianceError):
    """A calibration file that is corrupt or was made for something else; the text says which."""


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one candidate came to. Times are medians over its rounds, None if it never ran.

    `ratio` is the median over rounds of its time for a turn (see `judge.py`) divided by the
    default's in the same round; it wins below 1 - `margin`.
    """

    name: str
    num_rounds: int
    decode_ms: float | None
    prefill_ms: float | None
    ratio: float | None
    margin: float | None
    wins: bool
    verdict: str


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of `qwen-appliance tune engine`.

    `settings` are dotted keys with the values that won, and what follows for drafts; where the
    default won there is none.
    `verify_cost` maps a number of tokens to the time of a pass that computes them behind a
    context, in decode steps; `change_cost` comes on top when the pass before was of another size.
    `created` is ISO 8601, UTC. `not_reached` names the candidates there was no time for.
    """

    format: int = FORMAT
    made_for: Identity
    created: str
    settings: dict[str, bool | int | str]
    verify_cost: dict[int, float]
    change_cost: float
    trials: list[Trial]
    not_reached: list[str]

    def settings_in_words(self) -> dict[str, str]:
        """For each key `key = value`, as a configuration file would say it."""
        return {
            key: f"{key} = {str(value).lower() if isinstance(value, bool) else value}"
            for key, value in self.settings.items()
        }


def calibration_path(config: EngineConfig, model_name: str) -> Path | None:
    """Where the calibration is looked for; None without a setting and without a home."""
    if config.calibration_file is not None:
        return config.calibration_file
    directory = config.compile_cache_dir or default_cache_dir()
    if directory is None:
        return None
    return directory / f"calibration-{_NOT_IN_NAMES.sub('_', model_name)}-{config.kv_cache}.json"


def read_calibration(path: Path, here: Identity) -> Calibration:
    """The calibration in `path` if it was made for `here`.

    Raises `FileNotFoundError`, and `UnusableCalibrationError` for anything else.
    """
    try:
        if not path.is_file():
            path.stat()
            raise UnusableCalibrationError("not a file")
        with path.open("rb") as file:
            text = file.read(_LARGEST_BYTES)
        calibration = msgspec.json.decode(text, type=Calibration)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableCalibrationError(f"cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UnusableCalibrationError(f"corrupt: {error}") from error
    if calibration.format != FORMAT:
        raise UnusableCalibrationError(f"format {calibration.format}, this version reads {FORMAT}")
    if difference := calibration.made_for.difference(here):
        raise UnusableCalibrationError(difference)
    if foreign := sorted(calibration.settings.keys() - TUNED_SETTINGS):
        raise UnusableCalibrationError(f"corrupt: it sets {foreign[0]}")
    return calibration


def to_json(calibration: Calibration) -> str:
    """The text of the file."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=2).decode() + "\n"


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Replace `path` in one step, readable for everyone: the service runs as another user.

    Raises `OSError`; what was there before is there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(to_json(calibration))
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def check_writable(path: Path) -> None:
    """Find out before minutes of measuring whether `write_calibration` could. Raises `OSError`."""
    if path.is_dir():
        raise IsADirectoryError(21, os.strerror(21), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass
