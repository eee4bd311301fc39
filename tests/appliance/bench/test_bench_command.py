"""`qwen-appliance bench` from arguments to exit code, table and JSON."""

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Script, ScriptedServer, scripted, slowed

from appliance.bench.command import add_arguments, run
from appliance.bench.machine import this_machine

PARSE_AND_RUN = (
    "import argparse, sys; from appliance.bench.command import add_arguments, run; "
    "parser = argparse.ArgumentParser(); add_arguments(parser)"
)


def bench(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(argv))


def measured(server: ScriptedServer, tmp_path: Path, *argv: str) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "out.json"
    small = ("--requests", "2", "--prompt-tokens", "200", "--max-tokens", "6")
    code = bench("--base-url", server.url, "--json", str(path), *small, *argv)
    return code, json.loads(path.read_text(encoding="utf-8"))


def by_kind(document: dict[str, Any]) -> dict[str, Any]:
    return {summary["row"]["kind"]: summary for summary in document["summaries"]}


def test_the_three_kinds_measure_what_they_say(tmp_path: Path) -> None:
    script = Script(first_token_s=0.1, cached_first_token_s=0.02, gap_s=0.01)
    with scripted(script) as server:
        code, document = measured(server, tmp_path)
    kinds = by_kind(document)
    assert code == 0
    assert list(kinds) == ["new", "repeated", "next-turn"]
    assert kinds["new"]["ttft_ms"]["min"] >= 100  # the server's prefix cache never helped
    assert 20 <= kinds["repeated"]["ttft_ms"]["p50"] < 90
    assert 20 <= kinds["next-turn"]["ttft_ms"]["p50"] < 90
    assert slowed(kinds["new"]["tpot_ms"]["p50"], 10)
    assert kinds["new"]["itl_ms"]["count"] == 2 * 5
    assert kinds["new"]["output_tokens"]["mean"] == 6
    assert kinds["new"]["prompt_tokens"]["mean"] == pytest.approx(200, abs=6)
    assert kinds["next-turn"]["prompt_tokens"]["mean"] > 200
    assert kinds["repeated"]["cached_tokens"]["mean"] > kinds["new"]["cached_tokens"]["mean"]


def test_warm_up_is_sent_but_in_no_figure(tmp_path: Path) -> None:
    with scripted() as server:
        _, document = measured(server, tmp_path)
    assert len(document["samples"]) == 2 * 3
    assert len(server.chats) == len(document["samples"]) + 3  # two to calibrate, one to connect
    assert not any(sample["opened_connection"] for sample in document["samples"])
    assert server.num_connections == 1


def test_a_wave_runs_side_by_side_and_is_full(tmp_path: Path) -> None:
    script = Script(first_token_s=0.1, cached_first_token_s=0.1, gap_s=0.02)
    with scripted(script) as server:
        code, document = measured(server, tmp_path, "--concurrency", "1,3", "--kinds", "new")
    one, three = document["summaries"]
    assert code == 0
    assert server.most_at_once == 3
    assert (one["num_ok"], three["num_ok"]) == (2, 3)
    assert slowed(1 / one["total_tokens_per_s"], 0.2 / 6)
    assert slowed(1 / three["total_tokens_per_s"], 0.2 / 18)
    assert slowed(1 / three["tokens_per_s"]["p50"], 0.2 / 6)
    assert three["num_opened_connections"] == 0


def test_a_seed_repeats_the_prompts_and_no_seed_does_not(tmp_path: Path) -> None:
    def prompts(*argv: str) -> list[str]:
        with scripted(Script(first_token_s=0, cached_first_token_s=0, gap_s=0)) as server:
            measured(server, tmp_path, *argv)
        return server.prompts

    first = prompts("--seed", "7")
    assert first == prompts("--seed", "7")
    assert first != prompts()


def test_failures_are_counted_named_and_end_with_1(tmp_path: Path, capsys) -> None:
    # Requests 0 to 2 warm up; 3, 4, 5 are the first conversation, 6 begins the second.
    with scripted(Script(failures={4: "die", 6: "429"})) as server:
        code, document = measured(server, tmp_path)
    kinds = by_kind(document)
    assert code == 1
    assert kinds["new"]["errors"] == {"HTTP 429: too many requests": 1}
    assert (kinds["new"]["num_ok"], kinds["new"]["num_failed"]) == (1, 1)
    assert (kinds["repeated"]["num_failed"], kinds["repeated"]["num_skipped"]) == (1, 1)
    assert kinds["repeated"]["ttft_ms"] is None  # the half answer is in no figure
    assert (kinds["next-turn"]["num_ok"], kinds["next-turn"]["num_skipped"]) == (1, 1)
    text = capsys.readouterr().out
    assert "1 x 200 new: FAILED 1 times: HTTP 429: too many requests" in text
    assert "1 x 200 next-turn: 1 not sent, as the first request had failed." in text


def test_a_failed_warm_up_is_said_and_a_server_without_usage_too(tmp_path: Path, capsys) -> None:
    with scripted(Script(tells_usage=False, failures={2: "error"})) as server:
        code, document = measured(server, tmp_path)
    text = capsys.readouterr().out
    assert code == 0
    assert "1 of 1 warm-up requests failed: error in the stream: out of memory" in text
    assert "The server reports no usage: prompt sizes are a guess." in text
    assert "Output tokens are content chunks" in text
    assert document["calibration"]["measured"] is False
    assert {sample["counted_by"] for sample in document["samples"]} == {"chunks"}


def test_answers_that_end_early_are_said(tmp_path: Path, capsys) -> None:
    with scripted(Script(num_tokens=4)) as server:
        measured(server, tmp_path)
    assert "1 x 200 new: 2 of 2 answers ended before 6 tokens." in capsys.readouterr().out


def test_the_table_has_one_line_per_row(capsys) -> None:
    with scripted() as server:
        bench("--base-url", server.url, "--requests", "1", "--prompt-tokens", "50,100")
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines()[2:9]]
    assert rows[0][:3] == ["conc", "prompt", "kind"]
    assert [tuple(row[:3]) for row in rows[1:]] == [
        ("1", size, kind) for size in ("50", "100") for kind in ("new", "repeated", "next-turn")
    ]
    assert captured.err == ""  # progress is for terminals


def test_the_document_is_complete_and_holds_no_key(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with scripted(Script(models=("first", "second"))) as server:
        _, document = measured(server, tmp_path, "--extra-body", '{"ignore_eos": true}')
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in json.dumps(document)
    assert server.chats[0]["ignore_eos"] is True
    assert document["parameters"]["model"] == "first"
    assert document["parameters"]["extra_body"] == {"ignore_eos": True}
    assert set(document["client"]) == {"qwen_appliance", "python", "httpx", "machine"}
    assert document["started"].endswith("+00:00")
    sample = document["samples"][0]
    assert len(sample["chunk_ms"]) == 6
    assert sample["chunk_ms"] == sorted(sample["chunk_ms"])
    assert sample["end_ms"] >= sample["chunk_ms"][-1]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]


def test_no_server_is_4_and_one_line(capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code = bench("--base-url", f"http://127.0.0.1:{taken.getsockname()[1]}", "--model", "m")
    error = capsys.readouterr().err
    assert code == 4
    assert error.startswith("qwen-appliance bench: no server answers at http://127.0.0.1:")
    assert error.count("\n") == 1


def test_a_server_that_cannot_be_measured_is_1(capsys) -> None:
    with scripted(Script(models=())) as server:
        assert bench("--base-url", server.url) == 1
        assert "lists no model; name one with --model" in capsys.readouterr().err
    with scripted(Script(failures={0: "error"})) as server:
        assert bench("--base-url", server.url) == 1
        assert "failed: error in the stream: out of memory" in capsys.readouterr().err


def test_unusable_arguments_are_2(tmp_path: Path, capsys) -> None:
    assert bench("--base-url", "localhost:8000") == 2
    assert "expected something like http://127.0.0.1:8000" in capsys.readouterr().err
    assert bench("--base-url", "http://h", "--json", str(tmp_path / "no" / "x.json")) == 2
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--requests", "0"),
        ("--prompt-tokens", "32,,64"),
        ("--concurrency", "-1"),
        ("--kinds", "new,old"),
        ("--timeout", "nan"),
        ("--extra-body", "[1]"),
        ("--extra-body", "{"),
        ("--language", "de"),
    ],
)
def test_malformed_arguments_are_2(option: str, text: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        bench("--base-url", "http://h", option, text)
    assert caught.value.code == 2
    assert option in capsys.readouterr().err


def test_the_machine_is_read_where_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Intel(R) N100\n")
    governor = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    assert this_machine(tmp_path).governor is None
    governor.parent.mkdir(parents=True)
    governor.write_text("performance\n")
    machine = this_machine(tmp_path)
    assert (machine.cpu_model, machine.governor) == ("Intel(R) N100", "performance")
    assert this_machine(tmp_path / "nowhere").cpu_model is None


def test_an_interrupt_is_130_and_one_line() -> None:
    with scripted(Script(first_token_s=60)) as server:
        # A shell that runs the tests in its background has SIGINT ignored, which is inherited.
        hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        go = f"sys.exit(run(parser.parse_args(['--base-url', '{server.url}'])))"
        with subprocess.Popen(
            [sys.executable, "-c", f"{hear}; {PARSE_AND_RUN}; {go}"],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + 30
            while not server.chats and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "qwen-appliance bench: interrupted; nothing was measured to its end\n"


def test_the_arguments_cost_no_http_client() -> None:
    program = f"{PARSE_AND_RUN}; sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_results_that_cannot_be_written_are_1(capsys) -> None:
    with scripted() as server:
        assert bench("--base-url", server.url, "--requests", "1", "--json", "/dev/full") == 1
    assert "/dev/full cannot be written: No space left on device" in capsys.readouterr().err
