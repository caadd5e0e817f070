"""What the scripts that drive the example servers share: starting and stopping one, and running checks.

A check is a function whose name is a sentence. It returns what it has measured (or nothing), raises `AssertionError`
when the sentence is false, and `Skip` when it cannot be tried here. Nothing waits without a limit.
"""

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
# A check that takes longer than this is stopped: it has failed.
LONGEST_CHECK = 120


class Skip(Exception):
    """The check cannot be tried on this machine."""


class Server:
    """One example server, started and ready. Leaving the `with` block ends it."""

    def __init__(self, program, *options, at=(f"{HOST}:0",), under=(), environment=None, told=None, **process):
        """`told`: how many addresses it tells of, if not as many as it is given. The rest is for `Popen`."""
        self.scratch = tempfile.mkdtemp(prefix="turnwheel-")
        self.errors_path = os.path.join(self.scratch, "stderr")
        self.under = [word.replace("SCRATCH", self.scratch) for word in under]
        command = [*self.under, os.path.join(EXAMPLES, program), *at, *options]
        variables = dict(os.environ, RUST_LOG="warn", **(environment or {}))
        with open(self.errors_path, "wb") as errors:
            process = {"stdin": subprocess.DEVNULL, **process}
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=variables, **process
            )
        self.pid = self.process.pid
        self.lines = queue.Queue()
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
        """The next line on stdout; `None` if none comes."""
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
        """Ends it by force, if it has not ended."""
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
        """The lines that were logged as errors."""
        return [line for line in self.errors().splitlines() if " ERROR " in line]

    def running(self):
        return self.process.poll() is None

    def stop(self, signals=(signal.SIGINT,), within=20):
        """Asks it to stop. Answers its exit code, and how long it took."""
        began = time.monotonic()
        for number in signals:
            os.kill(self.pid, number)
            time.sleep(0.05)
        try:
            code = self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end within {within} s of {signals}") from None
        return code, time.monotonic() - began

    def stop_well(self, **options):
        """Asks it to stop and answers its counters, which it prints at the end if it was given --stats."""
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
        """Whether `text` comes up on stderr."""
        return wait_for(lambda: text in self.errors(), within)


def counters(errors):
    """The last line of statistics, as numbers by name; `messages 3/4` is `messages_in` and `messages_out`."""
    lines = [line for line in errors.splitlines() if line.startswith("open ")]
    if not lines:
        return {}
    found = {}
    for name, value, slash, more in re.findall(r"(\w+) (\d+)(/?)(\d*)", lines[-1]):
        if slash:
            found["messages_in"], found["messages_out"] = int(value), int(more)
        else:
            found.setdefault(name, int(value))
    return found


def wait_for(condition, within=5):
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def receive(client, size):
    """Exactly `size` bytes, or what came before the end."""
    data = bytearray()
    while len(data) < size:
        piece = client.recv(min(size - len(data), 65536))
        if not piece:
            break
        data += piece
    return bytes(data)


def receive_all(client):
    """Everything up to the end."""
    return receive(client, 1 << 62)


def echoed(client, message=b"are you there?"):
    """Whether `message` comes back."""
    client.sendall(message)
    return receive(client, len(message)) == message


def run(command, within=20, **options):
    """Runs a program to its end."""
    return subprocess.run(command, timeout=within, capture_output=True, check=False, **options)


def need(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise Skip(f"no {' and no '.join(missing)} here")


def pattern(size, seed=1):
    """Bytes in which a gap, a repetition or a swap shows."""
    numbered = b"".join(b"%d:%d," % (seed, i) for i in range(size // 8 + 1))
    return numbered[:size]


def main(checks, description, programs=("echo", "broadcast", "framed")):
    """Runs the checks (all, or those whose name holds one of the given words), and says how it went."""
    global EXAMPLES
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        print(f"{description}\n\nUsage: {sys.argv[0]} [DIRECTORY OF THE EXAMPLE SERVERS] [WORD OF A CHECK]...")
        return 0
    if words:
        EXAMPLES = os.path.abspath(words.pop(0))
    missing = [name for name in programs if not os.path.exists(os.path.join(EXAMPLES, name))]
    if missing:
        print(f"no {', '.join(missing)} in {EXAMPLES}: run `cargo build --release --examples` first")
        return 2
    # Asked to end, the servers that run are ended first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [check for check in checks if not words or any(word in check.__name__ for word in words)]
    tally = {"ok": 0, "FAILED": 0, "skipped": 0}
    for check in chosen:
        name = check.__name__.replace("_", " ")
        verdict, detail = attempt(check)
        detail = " / ".join(detail.strip().splitlines())
        # The end of what a server said tells the most.
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
        return "FAILED", f"not done after {LONGEST_CHECK} s"
    except AssertionError as error:
        return "FAILED", f"{error or 'line ' + str(traceback.extract_tb(error.__traceback__)[-1].lineno)}"
    except Exception as error:  # Whatever it is, the other checks go on.
        at = traceback.extract_tb(error.__traceback__)[1]
        return "FAILED", f"{type(error).__name__}: {error} (in {at.name}, line {at.lineno})"
    finally:
        signal.alarm(0)
    took = time.monotonic() - began
    return "ok", f"{detail or ''}{' ' if detail else ''}({took:.1f} s)"


EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release", "examples")
