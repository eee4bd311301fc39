"""The listening socket: where it may be without an API key."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import ServerConfig
from appliance.errors import BindError, ConfigError
from appliance.listener import listen, url


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    with listen(ServerConfig(host=host, port=0), {}) as listener:
        assert url(listener).startswith("http://127.") or url(listener).startswith("http://[::1]:")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])
def test_an_address_for_others_is_refused_without_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="key add") as caught:
        listen(ServerConfig(host=host, port=0), {})
    assert (caught.value.key, caught.value.value) == ("server.host", host)
    assert caught.value.exit_code == 2
    assert "server.allow_no_key" in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        ServerConfig(host="0.0.0.0", port=0, allow_no_key=True),
        ServerConfig(host="0.0.0.0", port=0, api_keys_file=Path("/some/api-keys")),
    ],
)
def test_with_a_key_or_when_told_so_it_listens_everywhere(config: ServerConfig) -> None:
    with listen(config, {}) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(BindError, match=r"192\.0\.2\.1"):
        listen(ServerConfig(host="192.0.2.1", allow_no_key=True), {})


def test_in_the_image_it_says_what_to_type_outside() -> None:
    with pytest.raises(ConfigError) as caught:
        listen(ServerConfig(host="0.0.0.0", port=0), {"container": "oci"})
    assert "docker run --rm -v VOLUME:/data IMAGE key add NAME" in str(caught.value)
    assert "QWEN_APPLIANCE_SERVER_ALLOW_NO_KEY=true" in str(caught.value)
    assert "\n" not in str(caught.value)
