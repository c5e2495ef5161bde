"""A stranger's command: what it can reach, what it can use, and how it is ended."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from neural_cleanse.loading.program import sandbox
from neural_cleanse.loading.program.sandbox import Limits, Ran

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs are not run on Windows")


@pytest.fixture(params=["bubblewrap", "plain"])
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Both ways of running; the plain one by hiding bubblewrap."""
    if request.param == "plain":
        monkeypatch.setenv("PATH", str(tmp_path))
        return False
    return needs_bubblewrap(tmp_path)


def needs_bubblewrap(tmp_path: Path) -> bool:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap (bwrap) is not installed")
    if not run("", tmp_path).isolated:
        pytest.skip("bubblewrap may not make namespaces here")
    return True


def run(script: str, tmp_path: Path, readable: tuple[Path, ...] = (), **limits: float) -> Ran:
    """Run Python source with a directory of its own, in which `output` may be written."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "output").touch()
    return sandbox.run(
        [sys.executable, "-I", "-c", script],
        readable=readable,
        writable=home / "output",
        limits=Limits(**{"seconds": 60.0, **limits}),  # type: ignore[arg-type]
        no_sandbox=True,
    )


def test_a_command_reads_what_is_named_and_writes_its_file(tmp_path: Path, isolated: bool) -> None:
    given = tmp_path / "given"
    given.write_text("hello")
    ran = run(f"open('output', 'w').write(open({str(given)!r}).read() + ' there')", tmp_path, (given,))
    assert ran == Ran(isolated, False, 0, "")
    assert (tmp_path / "home" / "output").read_text() == "hello there"


def test_our_environment_stays_with_us(tmp_path: Path, isolated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    ran = run("import os; print(sorted(os.environ))", tmp_path)
    assert ran.isolated is isolated
    assert "HOME" in ran.log and "SECRET_TOKEN" not in ran.log


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, isolated: bool) -> None:
    begun = time.monotonic()
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    ran = run(script, tmp_path, seconds=1.5)
    assert ran.timed_out and ran.isolated is isolated
    assert time.monotonic() - begun < 30


def test_a_file_cannot_grow_beyond_its_limit(tmp_path: Path, isolated: bool) -> None:
    script = "f = open('output', 'wb')\nfor _ in range(1000): f.write(bytes(2**20)); f.flush()"
    ran = run(script, tmp_path, file_bytes=3 * 2**20)
    assert ran.status != 0 and ran.isolated is isolated
    assert (tmp_path / "home" / "output").stat().st_size <= 3 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_memory_is_limited(tmp_path: Path, isolated: bool) -> None:
    ran = run("bytearray(2**31)", tmp_path, memory=2**30)
    assert ran.status != 0 and ran.isolated is isolated
    assert "MemoryError" in ran.log


def test_what_it_says_is_cut_and_made_printable(tmp_path: Path) -> None:
    ran = run(r"print('x' * 10**6, '\x1b[31mred\u202eder\x07')", tmp_path)
    assert len(ran.log) <= sandbox.MAX_LOG
    assert "red" in ran.log and not set(ran.log) & {"\x1b", "\u202e", "\x07"}


def test_bubblewrap_hides_files_and_takes_no_writes(tmp_path: Path) -> None:
    needs_bubblewrap(tmp_path)
    secret, marker = tmp_path / "secret", tmp_path / "marker"
    secret.write_text("sesame")
    script = f"""
import os, pathlib, sys
for attempt in (
    lambda: print(open({str(secret)!r}).read()),
    lambda: print(open('/etc/passwd').read()),
    lambda: open(os.path.join(sys.prefix, 'evil'), 'w'),
    lambda: os.remove('output'),
    lambda: os.kill({os.getpid()}, 9),
):
    try:
        attempt()
        print('reached')
    except OSError as error:
        print('refused', type(error).__name__)
os.makedirs({str(marker)!r})  # in a /tmp of its own
"""
    ran = run(script, tmp_path)
    assert ran.log.split().count("refused") == 5, ran.log
    assert "sesame" not in ran.log and "reached" not in ran.log
    assert not marker.exists()


def test_bubblewrap_has_no_network(tmp_path: Path) -> None:
    needs_bubblewrap(tmp_path)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        script = f"import socket; socket.create_connection({place!r}, 3); print('reached')"
        assert "reached" in _plain(script, tmp_path)
        ran = run(script, tmp_path)
    assert ran.status != 0 and "reached" not in ran.log


def _plain(script: str, tmp_path: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        return run(script, tmp_path).log
