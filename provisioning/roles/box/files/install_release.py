"""On the box: makes a release of the archive that it was sent, whole or not at all.

`install_release.py BASE ID ARCHIVE [pip's options]`: BASE/releases/ID gets a virtual environment
with the lock's packages and the service, and last of all `release.json`, without which it does not
count. Prints JSON: `{"changed": ..., "message": ...}`. Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

MARK = "release.json"
LOCK = "provisioning/requirements/run.lock"
_COMMAND = """#!{venv}/bin/python3
import sys
from appliance.cli import main
sys.exit(main())
"""
_SHOWN_LINES = 12


class InstallError(Exception):
    """A step that failed; the text is for the person who provisions."""


def install(base: Path, release: str, archive: Path, pip_options: list[str]) -> bool:
    """Whether there was anything to do. Raises `InstallError`, `OSError`; nothing is then left."""
    target = base / "releases" / release
    if (target / MARK).exists():
        return False
    os.umask(0o022)
    shutil.rmtree(target, ignore_errors=True)
    try:
        target.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            # Python 3.14 and those that were repaired refuse what would leave the directory.
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(target, **safely)  # type: ignore[arg-type]  # noqa: S202 - our own archive
        archive.unlink()
        _make_venv(target, pip_options)
        told = {"id": release, "python": ".".join(map(str, sys.version_info[:3]))}
        os.sync()  # a power cut from here on finds the release whole
        (target / MARK).write_text(json.dumps(told) + "\n", encoding="utf-8")
        os.sync()
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    finally:
        archive.unlink(missing_ok=True)
    return True


def _make_venv(target: Path, pip_options: list[str]) -> None:
    venv, wheels = target / "venv", target / "wheels"
    # Debian's Python has no pip unless python3-venv is there; a bundle brings one.
    pip = next(wheels.glob("pip-*.whl"), None)
    _run(sys.executable, "-m", "venv", *(["--without-pip"] if pip else []), str(venv))
    python = str(venv / "bin" / "python3")
    from_wheels = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    _run(
        *(python, *([f"{pip}/pip"] if pip else ["-m", "pip"]), "install", "--no-input"),
        *("--progress-bar", "off"),
        *("--disable-pip-version-check", "--no-cache-dir", "--no-compile", "--no-deps"),
        *("--require-hashes", "--only-binary=:all:", *from_wheels, *pip_options),
        *("-r", str(target / LOCK)),
    )
    shutil.rmtree(wheels, ignore_errors=True)
    (site_packages,) = (venv / "lib").glob("python3*/site-packages")
    (target / "appliance").rename(site_packages / "appliance")
    _run(python, "-m", "compileall", "-q", "-j", "0", str(site_packages))
    command = venv / "bin" / "qwen-appliance"
    command.write_text(_COMMAND.format(venv=venv), encoding="utf-8")
    command.chmod(0o755)
    _run(str(command), "--version")


def _run(*command: str) -> None:
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode:
        lines = ended.stdout.splitlines()[-_SHOWN_LINES:]
        raise InstallError(
            f"{' '.join(command[:4])} ... failed (exit status {ended.returncode}):\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def main() -> int:
    """The command; 1 and the reason on stderr when there is no release."""
    base, release, archive, *pip_options = sys.argv[1:]
    try:
        changed = install(Path(base), release, Path(archive), pip_options)
    except (InstallError, OSError, tarfile.TarError) as error:
        sys.stderr.write(
            f"no release was made of it, and nothing is left of the attempt: {error}\n"
        )
        return 1
    sys.stdout.write(json.dumps({"changed": changed}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
