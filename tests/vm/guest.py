"""Run as root inside the emulated machine, once it has booted: looks, and says what it saw.

Each line `SEEN name value` goes to the serial console, where the test reads it. Values are JSON. It
stands in no package: the machine has only the Python of its distribution.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SERVICE = "qwen-appliance.service"
DROP_IN = Path("/etc/systemd/system/qwen-appliance.service.d/test.conf")
GREEDY = Path("/var/lib/qwen-appliance/kv/take-all-memory")
# An address of the documentation's range and one of a private network, both of this machine.
PUBLIC, PRIVATE = "203.0.113.7", "192.168.77.7"
READY_TIMEOUT_S = 900
MANIFEST = Path("/var/lib/qwen-appliance/models/model/manifest.json")
CHAT = {
    "messages": [{"role": "user", "content": "What is 2+2?"}],
    "max_tokens": 8,
    "temperature": 0,
}


def seen(name: str, value: object) -> None:
    sys.stdout.write(f"SEEN {name} {json.dumps(value)}\n")
    sys.stdout.flush()


def run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout.strip()


def systemctl(*arguments: str) -> int:
    return subprocess.run(("systemctl", "--no-pager", *arguments), check=False).returncode


def shown(name: str, unit: str = SERVICE) -> str:
    return run("systemctl", "show", "-P", name, unit)


def status(address: str, source: str = "") -> str:
    """The HTTP status of a health check; 000 when nobody answered."""
    options = ("--interface", source) if source else ()
    url = f"http://{address}:8000/health/live"
    return run("curl", "-s", "-o", "/dev/null", "-m", "20", "-w", "%{http_code}", *options, url)


def chat() -> str:
    url = "http://127.0.0.1:8000/v1/chat/completions"
    body = {"model": json.loads(MANIFEST.read_text())["name"], **CHAT}
    options = ("-H", "Content-Type: application/json", "-d", json.dumps(body))
    return run("curl", "-s", "-m", "300", *options, url)


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def drop_in(text: str) -> None:
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(f"[Service]\n{text}\n")
    systemctl("daemon-reload")


def processor() -> None:
    flags = next(
        line.partition(":")[2].split()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("flags")
    )
    seen("avx2", "avx2" in flags)
    seen("avx512", any(flag.startswith("avx512") for flag in flags))
    seen("cgroup_version", 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1)


def first_answer() -> None:
    began = time.monotonic()
    seen("start", systemctl("start", SERVICE))
    seen("start_s", round(time.monotonic() - began, 1))
    seen("answer", chat())
    seen("tuning", shown("Result", "qwen-appliance-tune.service"))


def addresses() -> None:
    for address in (PUBLIC, PRIVATE):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    seen("private", status(PRIVATE, PRIVATE))
    seen("public", status(PUBLIC, PUBLIC))
    drop_in("IPAddressAllow=any")
    systemctl("restart", SERVICE)
    seen("public_allowed", status(PUBLIC, PUBLIC))


def memory() -> None:
    faulty = "/opt/qwen-appliance/venv/bin/python3 /opt/qwen-appliance/faulty_service.py"
    # It compiles before the part of the service that asks systemd for more time.
    drop_in(
        f"MemoryHigh=infinity\nMemoryMax=700M\nTimeoutStartSec={READY_TIMEOUT_S}\nExecStart=\n"
        f"ExecStart={faulty} --model /run/qwen-appliance/model/current"
    )
    systemctl("restart", SERVICE)
    before = shown("MainPID")
    GREEDY.touch()
    chat()
    seen(
        "restarted", until(lambda: shown("MainPID") != before and shown("ActiveState") == "active")
    )
    seen("restarts", shown("NRestarts"))
    seen("oom_kill", "oom-kill" in run("journalctl", "-b", "-o", "cat", "-u", SERVICE))
    seen("answer_after", chat())


def main() -> None:
    processor()
    first_answer()
    addresses()
    memory()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # the console is all that anybody sees
        seen("error", repr(error))
    finally:
        seen("end", True)
        systemctl("poweroff")
