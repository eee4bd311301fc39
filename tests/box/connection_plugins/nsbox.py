"""An Ansible connection into a box of these tests, which has no ssh server: by its namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: nsbox
short_description: enter a systemd-nspawn box
description: Commands and files go through the namespaces of the box's process 1.
author: qwen-appliance
options:
  leader:
    description: Process 1 of the box, as the host sees it.
    vars:
      - name: ansible_nsbox_leader
"""
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Connection(ConnectionBase):
    transport = "nsbox"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        leader = str(self.get_option("leader"))
        ended = subprocess.run(
            [
                *("nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"),
                *("env", "-i", PATH, "HOME=/root", "LANG=C.UTF-8", "/bin/sh", "-c", cmd),
            ],
            input=in_data or b"",
            capture_output=True,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        shutil.copyfile(in_path, self._seen_by_host(out_path))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        shutil.copyfile(self._seen_by_host(in_path), out_path)

    def close(self) -> None:
        self._connected = False

    def _seen_by_host(self, path: str) -> str:
        return f"/proc/{self.get_option('leader')}/root{os.path.abspath('/' + path)}"
