"""Shared by the scripts: starts and stops the example servers, runs checks, and builds the unit tests.

A check is a function whose name is a sentence. It returns its measurements (or nothing), raises `AssertionError` if the
sentence is false, and `Skip` if it cannot run here. Every wait has a timeout.
"""

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HOST = "127.0.0.1"
# Seconds. A check that takes longer is stopped and has failed. Chosen.
LONGEST_CHECK = 120


def unit_tests(*options, cwd=None):
    """Builds the unit tests with these options of cargo. Returns the path of the binary."""
    command = ["cargo", "test", "--package", "turnwheel", "--lib", "--no-run", "--quiet"]
    command += ["--message-format=json-render-diagnostics", *options]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0, "the unit tests do not build"
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    tests = [m["executable"] for m in messages if m.get("executable") and m["profile"]["test"]]
    assert len(tests) == 1, tests
    return tests[0]


class Skip(Exception):
    """The check cannot run on this machine."""


class Server:
    """One example server, started and ready. It is killed at the end of the `with` block."""

    def __init__(self, program, *options, at=(f"{HOST}:0",), under=(), environment=None, told=None, **process):
        """`told`: how many addresses the server prints, if not one for each of `at`. `process`: options of `Popen`."""
        self.scratch = tempfile.mkdtemp(prefix="turnwheel-")
        self.errors_path = os.path.join(self.scratch, "stderr")
        self.under = [word.replace("SCRATCH", self.scratch) for word in under]
        command = [*self.under, os.path.join(EXAMPLES, program), *at, *options]
        variables = {**os.environ, "RUST_LOG": "warn", **(environment or {})}
        with open(self.errors_path, "wb") as errors:
            process = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors, **process}
            self.process = subprocess.Popen(command, env=variables, **process)
        self.pid = self.process.pid
        self.lines = queue.Queue()
        if self.process.stdout:
            threading.Thread(target=self._collect, daemon=True).start()
        try:
            self.addresses = [self._address() for _ in range(len(at) if told is None else told)]
        except BaseException:
            self.end()
            raise
        tcp = [address for address in self.addresses if not address.startswith("unix:")]
        self.port = int(tcp[0].rsplit(":", 1)[1]) if tcp else None

    def _collect(self):
        for line in self.process.stdout:
            self.lines.put(line.decode().rstrip("\n"))
        self.lines.put(None)

    def line(self, within=15):
        """Returns the next line on stdout, or `None` at the end or after `within` seconds."""
        try:
            return self.lines.get(timeout=within)
        except queue.Empty:
            return None

    def _address(self):
        line = self.line()
        assert line is not None, f"the server did not start: {self.errors()}"
        assert line.startswith("listening on "), f"first line on stdout: {line!r}"
        return line.removeprefix("listening on ")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Kills the server if it is still running, and removes its scratch directory."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def connect(self, timeout=10, receive_buffer=None, send_buffer=None):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        client.settimeout(timeout)
        client.connect((HOST, self.port))
        return client

    def errors(self):
        with open(self.errors_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def error_lines(self):
        """Returns the lines that were logged as errors."""
        return [line for line in self.errors().splitlines() if " ERROR " in line]

    def running(self):
        return self.process.poll() is None

    def stop(self, signals=(signal.SIGINT,), within=20):
        """Sends the signals and waits for the exit. Returns the exit code, and how many seconds it took."""
        began = time.monotonic()
        for number in signals:
            os.kill(self.pid, number)
            time.sleep(0.05)
        try:
            code = self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not exit within {within} s after {signals}") from None
        return code, time.monotonic() - began

    def stop_well(self, **options):
        """Stops the server and checks that it exits with 0. Returns its counters, which need --stats."""
        code, _ = self.stop(**options)
        errors = self.errors()
        assert code == 0, f"exit code {code}: {errors[-2000:]}"
        assert "panicked" not in errors, errors[-2000:]
        return counters(errors)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1])

    def sees(self, text, within=5):
        """Waits for `text` on stderr. Returns whether it appeared."""
        return wait_for(lambda: text in self.errors(), within)


def counters(errors):
    """Parses the totals of --stats into numbers by name. `messages 3/4` is `messages_in` and `messages_out`."""
    totals = re.search(r"^totals: (.*(?:\n  .*)*)", errors, re.MULTILINE)
    if not totals:
        return {}
    found = {}
    for name, value, slash, more in re.findall(r"(\w+)\s+(\d+)(/?)(\d*)", totals[1]):
        if slash:
            found["messages_in"], found["messages_out"] = int(value), int(more)
        else:
            found.setdefault(name, int(value))
    return found


def buffered(errors):
    """Returns the bytes that each line of --stats says are buffered."""
    units = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    return [float(n) * units[unit] for n, unit in re.findall(r"([\d.]+) (\w+) buffered", errors)]


def wait_for(condition, within=5):
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def receive(client, size):
    """Receives exactly `size` bytes, or all bytes up to the end of the stream if there are fewer."""
    data = bytearray()
    while len(data) < size:
        piece = client.recv(min(size - len(data), 65536))
        if not piece:
            break
        data += piece
    return bytes(data)


def receive_all(client):
    """Receives all bytes up to the end of the stream."""
    return receive(client, 1 << 62)


def echoed(client, message=b"are you there?"):
    """Sends `message`. Returns whether the same bytes come back."""
    client.sendall(message)
    return receive(client, len(message)) == message


def run(command, within=20, **options):
    """Runs a program until it exits."""
    return subprocess.run(command, timeout=within, capture_output=True, check=False, **options)


def need(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise Skip(f"no {' and no '.join(missing)} here")


def pattern(size, seed=1):
    """Returns numbered bytes, so that a gap, a repetition or a swap is detected."""
    numbered = b"".join(b"%d:%d," % (seed, i) for i in range(size // 8 + 1))
    return numbered[:size]


def main(checks, description, programs=("echo", "broadcast", "framed")):
    """Runs the checks (all, or those whose name contains a word of the command line) and prints the results. The
    command line names the directory of the example servers first, if any are needed."""
    global EXAMPLES
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        directory = "[DIRECTORY OF THE EXAMPLE SERVERS] " if programs else ""
        print(f"{description}\n\nUsage: {sys.argv[0]} {directory}[WORD OF A CHECK]...")
        return 0
    if words and programs:
        EXAMPLES = os.path.abspath(words.pop(0))
    missing = [name for name in programs if not os.path.exists(os.path.join(EXAMPLES, name))]
    if missing:
        print(f"no {', '.join(missing)} in {EXAMPLES}: run `cargo build --release --examples` first")
        return 2
    # A script in a shell's background ignores SIGINT. Its servers must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # At SIGTERM exit through the `with` blocks, which kill the running servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [check for check in checks if not words or any(word in check.__name__ for word in words)]
    tally = {"ok": 0, "FAILED": 0, "skipped": 0}
    for check in chosen:
        name = check.__name__.replace("_", " ")
        verdict, detail = attempt(check)
        detail = " / ".join(detail.strip().splitlines())
        # The end of the output of a server is the most useful part, so shorten the middle.
        detail = detail if len(detail) <= 800 else f"{detail[:400]} ... {detail[-400:]}"
        tally[verdict] += 1
        print(f"{verdict}: {name}{': ' if detail else ''}{detail}", flush=True)
    print(f"{tally['ok']} passed, {tally['FAILED']} failed, {tally['skipped']} skipped")
    return 1 if tally["FAILED"] or not chosen else 0


class TooLong(Exception):
    pass


def _too_long(_signal, _frame):
    raise TooLong


def attempt(check):
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_CHECK)
    began = time.monotonic()
    try:
        detail = check()
    except Skip as reason:
        return "skipped", str(reason)
    except TooLong:
        return "FAILED", f"timed out after {LONGEST_CHECK} s"
    except AssertionError as error:
        return "FAILED", f"{error or 'line ' + str(traceback.extract_tb(error.__traceback__)[-1].lineno)}"
    except Exception as error:  # The other checks run regardless of the exception.
        at = traceback.extract_tb(error.__traceback__)[1]
        return "FAILED", f"{type(error).__name__}: {error} (in {at.name}, line {at.lineno})"
    finally:
        signal.alarm(0)
    took = time.monotonic() - began
    return "ok", f"{detail or ''}{' ' if detail else ''}({took:.1f} s)"


EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release", "examples")
