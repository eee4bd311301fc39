"""`GET /health/live` and `GET /health/ready` through the service's whole life."""

from pathlib import Path

from tests.fakes import FakeRunner
from tests.server import Served, wait_until


def health(served: Served) -> tuple[int, str, str | None]:
    live = served.client.get("/health/live")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    ready = served.client.get("/health/ready")
    return ready.status_code, ready.json()["status"], ready.headers.get("retry-after")


def test_ready_follows_the_service(tiny_model_dir: Path) -> None:
    served = Served(tiny_model_dir, wait=False)
    served.runner.gate.clear()
    with served:
        assert health(served) == (503, "loading", "2")
        served.runner.gate.set()
        assert served.ready.wait(5)
        assert health(served) == (200, "ready", None)
        served.in_loop(served.appliance.stop_accepting)
        # The grace time of 30 s, and some for the next start.
        assert health(served) == (503, "draining", "32")


def test_not_ready_once_the_engine_died(tiny_model_dir: Path) -> None:
    with Served(tiny_model_dir, FakeRunner(fail_after=2)) as served:
        assert served.chat().status_code == 500
        wait_until(lambda: bool(served.failures))
        assert health(served) == (503, "failed", "2")
