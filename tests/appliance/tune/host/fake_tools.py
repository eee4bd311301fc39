"""The programs of a machine, as a small working implementation: daemons that remember."""

from __future__ import annotations


class FakeTools:
    """`active` are the units that run; `profiles` what their programs answer and take.

    A program whose daemon does not run fails, as the real ones do.
    """

    def __init__(self, *active: str) -> None:
        self.active = set(active)
        self.power_profile = "balanced"
        self.power_profiles = {"performance", "balanced", "power-saver"}
        self.tuned_profile: str | None = "virtual-guest"
        self.reloads = 0

    def is_active(self, unit: str) -> bool:
        return unit in self.active

    def run(self, *command: str) -> str:
        program, *arguments = command
        if program == "systemctl":
            assert arguments == ["daemon-reload"]
            self.reloads += 1
            return ""
        if program == "powerprofilesctl" and self.is_active("power-profiles-daemon.service"):
            return self._power_profiles(arguments)
        if program == "tuned-adm" and self.is_active("tuned.service"):
            return self._tuned(arguments)
        raise OSError(f"{program}: not there")

    def _power_profiles(self, arguments: list[str]) -> str:
        if arguments == ["get"]:
            return self.power_profile + "\n"
        verb, profile = arguments
        assert verb == "set"
        if profile not in self.power_profiles:
            raise OSError(f"powerprofilesctl set {profile}: no such profile")
        self.power_profile = profile
        return ""

    def _tuned(self, arguments: list[str]) -> str:
        if arguments == ["active"]:
            if self.tuned_profile is None:
                return "No current active profile.\n"
            return f"Current active profile: {self.tuned_profile}\n"
        if arguments == ["off"]:
            self.tuned_profile = None
            return ""
        verb, self.tuned_profile = arguments
        assert verb == "profile"
        return ""
