#!/usr/bin/env python3
"""Runs the example servers with standard streams and signals in every state that a shell can leave them in.

    cargo build --release --examples
    python3 tests/streams.py [target/release/examples [WORD OF A CHECK]...]

Uses bash, nohup and cc. Skips checks whose tool is missing.
"""

import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time

sys.dont_write_bytecode = True

import harness
from harness import HOST, Server, Skip, echoed, need, pattern, receive, run, wait_for

MIB = 1024 * 1024
SERVERS = ("echo", "broadcast", "framed", "numbers", "ticker", "udp_echo", "embed_poll")
FULL = "/dev/full"


def program(name):
    return os.path.join(harness.EXAMPLES, name)


@contextlib.contextmanager
def at_a_path(name, *options, **process):
    """Starts a server whose address need not be read from its standard output."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "socket")
        with Server(name, *options, at=(f"unix:{path}",), told=0, **process) as server:
            server.path = path
            assert wait_for(lambda: os.path.exists(path), 10), f"{name} does not listen: {server.errors()}"
            yield server


def serves(server, name):
    """Checks that the server accepts, or echoes if it is an echo server."""
    kind = socket.SOCK_DGRAM if name == "udp_echo" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.settimeout(10)
        if name == "udp_echo":
            client.bind(server.path + "-client")
        connect(client, server.path)
        if name in ("echo", "udp_echo", "embed_poll"):
            assert echoed(client), f"{name} does not echo"


def connect(client, path):
    """Connects. The file of a socket exists a moment before the server listens."""
    def connected():
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            client.connect(path)
            return True

    assert wait_for(connected, 10), f"nobody listens on {path}"


def broken(kind, number):
    """Returns options of `Popen` that leave the stream `number` (1 or 2) closed, full or without a reader."""
    stream = "stdout" if number == 1 else "stderr"
    if kind == "closed":
        return {"preexec_fn": lambda: os.close(number)}
    if kind == "full":
        return {stream: os.open(FULL, os.O_WRONLY)}
    reader, writer = os.pipe()
    os.close(reader)
    return {stream: writer}


def stops_well(server, name):
    code, took = server.stop((signal.SIGTERM,), within=10)
    assert code == 0, f"{name}: exit code {code}: {server.errors()}"
    assert "panicked" not in server.errors(), server.errors()
    return took


# ---- Standard output and error

def a_server_outlives_its_standard_output():
    for name in SERVERS:
        for kind, says in (("closed", None), ("full", "No space left"), ("gone", "Broken pipe")):
            with at_a_path(name, **broken(kind, 1)) as server:
                assert says is None or server.sees(says), f"{name}, {kind}: {server.errors()}"
                serves(server, name)
                stops_well(server, name)
                lines = server.errors().splitlines()
            told = [line for line in lines if "standard output" in line]
            assert len(told) == (says is not None), f"{name}, {kind}: {lines}"
            assert lines[-1].startswith("stopped: "), f"{name}, {kind}: {lines}"


def a_server_outlives_its_standard_error():
    for name in SERVERS:
        for kind in ("closed", "full", "gone"):
            with at_a_path(name, "--stats", "0.01", **broken(kind, 2)) as server:
                serves(server, name)
                assert server.line(5).startswith("listening on "), f"{name}, {kind}"
                stops_well(server, name)


def head_gets_the_first_line_and_the_server_goes_on():
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in "abc"]
        addresses = " ".join(f"unix:{path}" for path in paths)
        done = subprocess.Popen(["bash", "-c", f"exec {program('echo')} {addresses} 2>/dev/null | head -1"],
                                stdout=subprocess.PIPE, start_new_session=True)
        try:
            assert done.stdout.readline().decode() == f"listening on unix:{paths[0]}\n"
            for path in paths:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(10)
                    connect(client, path)
                    assert echoed(client)
        finally:
            os.killpg(done.pid, signal.SIGTERM)
            done.stdout.close()
            done.wait(10)


def a_reader_that_does_not_read_does_not_stop_the_server():
    """Standard error is a full pipe, and each connection logs."""
    reader, writer = os.pipe()
    with at_a_path("echo", environment={"RUST_LOG": "debug"}, stderr=writer) as server:
        os.close(writer)
        slowest = 0.0
        # Each connection logs some 200 bytes; the pipe holds 64 KiB, and 1 MiB may wait.
        for _ in range(8000):
            began = time.monotonic()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                connect(client, server.path)
                assert echoed(client, b"ping")
            slowest = max(slowest, time.monotonic() - began)
        text = bytearray()
        collecting = threading.Thread(target=collect, args=(reader, text), daemon=True)
        collecting.start()
        assert wait_for(lambda: b"were not printed" in text), f"{len(text)} bytes, no word of what is lost"
        stops_well(server, "echo")
        collecting.join(10)
    os.close(reader)
    told = re.findall(rb"(\d+) lines were not printed on standard error: nobody read it", text)
    lost = sum(map(int, told))
    assert text.count(b"\n") + lost >= 2 * 8000, f"{text.count(10)} lines, {lost} lost"
    assert text.splitlines()[-1].startswith(b"stopped: "), text[-200:]
    return f"slowest connection {slowest * 1000:.0f} ms, {lost} lines lost and counted"


def collect(reader, text):
    while piece := os.read(reader, 65536):
        text += piece


def nobody_reads_at_the_end_either():
    reader, writer = os.pipe()
    with at_a_path("echo", environment={"RUST_LOG": "debug"}, stderr=writer, stdout=writer) as server:
        os.close(writer)
        fill(reader, server)
        took = stops_well(server, "echo")
    os.close(reader)
    assert took < 4, f"{took:.1f} s"
    return f"{took:.1f} s"


def fill(reader, server):
    """Fills the pipe that the server logs to: each connection logs some 200 bytes, and the pipe holds 64 KiB."""
    for _ in range(1000):
        serves(server, "echo")
    waiting = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4), sys.byteorder)
    assert waiting > 32 * 1024, f"only {waiting} bytes were logged"


def a_console_that_is_not_read_does_not_stop_the_server():
    reader, writer = os.pipe()
    with at_a_path("embed_poll", stdin=subprocess.PIPE, stdout=writer) as server:
        os.close(writer)
        for _ in range(100):
            server.process.stdin.write(b"stats\n" * 200)
            server.process.stdin.flush()
        serves(server, "embed_poll")
        text = bytearray()
        collecting = threading.Thread(target=collect, args=(reader, text), daemon=True)
        collecting.start()

        def lost():
            return sum(map(int, re.findall(r"(\d+) lines were not printed on standard output", server.errors())))

        # One line is the address.
        assert wait_for(lambda: text.count(b"\n") + lost() == 20_001), f"{text.count(10)} lines, {lost()} lost"
        lost = lost()
        stops_well(server, "embed_poll")
        collecting.join(10)
    os.close(reader)
    assert lost > 0, "the pipe and the queue held it all"
    return f"{lost} of 20000 lines lost and counted"


def a_nonblocking_stream_gets_every_line():
    """Another program may have set O_NONBLOCK for all who share the pipe."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with at_a_path("embed_poll", stdin=subprocess.PIPE, stdout=writer) as server:
        server.process.stdin.write(b"stats\n" * 2000)
        server.process.stdin.flush()
        serves(server, "embed_poll")
        text = bytearray()
        collecting = threading.Thread(target=collect, args=(reader, text), daemon=True)
        collecting.start()
        assert wait_for(lambda: text.count(b"\n") == 2001), f"{text.count(10)} lines"
        stops_well(server, "embed_poll")
        os.close(writer)
        collecting.join(10)
    os.close(reader)


def help_that_cannot_be_printed_is_an_error():
    for name in SERVERS:
        with open(FULL, "wb") as full:
            done = subprocess.run([program(name), "--help"], stdout=full, stderr=subprocess.PIPE, timeout=10, check=False)
        said = done.stderr.decode()
        assert done.returncode == 1 and said.startswith("error: cannot print: No space left"), f"{name}: {done}"
        assert len(said.splitlines()) == 1, said
        # A reader that has read enough is no error.
        done = subprocess.run([program(name), "--help"], timeout=10, check=False, stderr=subprocess.PIPE,
                              **broken("gone", 1))
        assert done.returncode == 0 and not done.stderr, f"{name}: {done}"


# ---- Standard input

def a_server_outlives_its_standard_input():
    with tempfile.TemporaryDirectory() as directory:
        file = os.path.join(directory, "file")
        states = {
            "closed": ({"preexec_fn": lambda: os.close(0)}, ()),
            "write-only": ({"stdin": os.open(file, os.O_WRONLY | os.O_CREAT)}, ("", "Bad file descriptor")),
            "a directory": ({"stdin": os.open(directory, os.O_RDONLY)}, ("Is a directory",)),
        }
        for name in ("ticker", "embed_poll"):
            for state, (options, says) in states.items():
                with at_a_path(name, **options) as server:
                    serves(server, name)
                    assert not says or wait_for(lambda: any(word in server.errors() for word in says)), server.errors()
                    cpu = server.cpu_seconds()
                    time.sleep(0.5)
                    assert server.cpu_seconds() - cpu < 0.1, f"{name}, {state}: it spins"
                    stops_well(server, name)


@contextlib.contextmanager
def listener_of(server):
    """A client of a ticker that does not tick."""
    with socket.create_connection((HOST, server.port), timeout=20) as client:
        yield client


def ticker(**options):
    return Server("ticker", "--every", "3600", stdin=subprocess.PIPE, **options)


def typed_bytes_reach_the_clients_whatever_they_are():
    with ticker() as server, listener_of(server) as client:
        wait_until_accepted(server)
        typed = b"caf\xe9\n\xff\xfe\0\n" + b"x" * 300_000 + b"\nthe last line has no newline"
        server.process.stdin.write(typed)
        server.process.stdin.close()
        back = receive(client, len(typed) + 1)
        assert back == typed + b"\n", f"{len(back)} of {len(typed)} bytes"
        serves_on(server)


def wait_until_accepted(server, number=1):
    """Waits until the server has accepted: one socket for each client, and the listener."""
    def sockets():
        names = os.listdir(f"/proc/{server.pid}/fd")
        links = [os.readlink(f"/proc/{server.pid}/fd/{name}") for name in names if name.isdigit()]
        return sum(link.startswith("socket:") for link in links)

    assert wait_for(lambda: sockets() > number), "not accepted"


def serves_on(server):
    assert server.running(), server.errors()
    server.stop_well()


def more_input_than_fits_reaches_a_client_that_reads():
    data = b"".join(b"line %d\n" % n for n in range(200_000)) + pattern(20 * MIB) + b"\n"
    with ticker() as server, listener_of(server) as client:
        wait_until_accepted(server)

        def feed():
            with contextlib.suppress(BrokenPipeError):
                server.process.stdin.write(data)
                server.process.stdin.close()

        feeder = threading.Thread(target=feed, daemon=True)
        began = time.monotonic()
        feeder.start()
        back = receive(client, len(data))
        took = time.monotonic() - began
        feeder.join(10)
        assert back == data, f"{len(back)} of {len(data)} bytes: {server.errors()}"
        serves_on(server)
    return f"{len(data) / MIB:.0f} MiB in {took:.1f} s"


def a_nonblocking_standard_input_is_read():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with Server("ticker", "--every", "3600", stdin=reader) as server, listener_of(server) as client:
        os.close(reader)
        wait_until_accepted(server)
        time.sleep(0.3)
        os.write(writer, b"late\n")
        assert receive(client, 5) == b"late\n"
        os.close(writer)
        serves_on(server)


def the_last_command_needs_no_newline():
    done = run([program("embed_poll"), f"{HOST}:0"], input=b"stats\nquit")
    assert done.returncode == 0, done
    assert b"open 0 accepted 0 " in done.stdout, done
    assert done.stderr.splitlines()[-1] == b"stopped: 0 connections were open, 0 finished, 0 cut", done


@contextlib.contextmanager
def in_the_background_of_a_terminal(name, *options):
    """Starts a server in the background of a shell with job control. At SIGUSR1 the shell takes it to the foreground.
    Yields our end of the terminal, the shell, and the server's output."""
    need("bash")
    ours, theirs = pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    command = (f"{program(name)} {HOST}:0 {' '.join(options)} & echo $!; trap 'fg %1 >/dev/null' USR1; "
               "for i in {1..600}; do sleep 0.05; done")
    shell = subprocess.Popen(["bash", "-mc", command], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs,
                             preexec_fn=own_terminal)
    pid = int(shell.stdout.readline())
    try:
        yield ours, shell, pid, int(shell.stdout.readline().rsplit(b":", 1)[1])
    finally:
        for process in (pid, shell.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shell.wait(10)
        os.close(ours)
        os.close(theirs)


def state_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def a_server_in_the_background_of_a_terminal_is_not_stopped():
    for name, options in (("ticker", ("--every", "0.05")), ("embed_poll", ())):
        with in_the_background_of_a_terminal(name, *options) as (terminal, shell, pid, port):
            os.write(terminal, b"bogus\n")
            for _ in range(10):
                time.sleep(0.05)
                assert state_of(pid) not in "Tt", f"{name} was stopped"
            with socket.create_connection((HOST, port), timeout=10) as client:
                client.sendall(b"ping")
                assert client.recv(4), f"{name} does not serve"
                # In the foreground it gets what is typed.
                os.kill(shell.pid, signal.SIGUSR1)
                if name == "ticker":
                    assert any(b"bogus" in client.recv(100) for _ in range(100)), "the typed line was lost"
                else:
                    assert b'"bogus" is none of' in shell.stdout.readline()
            os.kill(pid, signal.SIGTERM)


# ---- Signals

def ignoring(*signals):
    def ignore():
        for number in signals:
            signal.signal(number, signal.SIG_IGN)

    return {"preexec_fn": ignore}


def an_ignored_signal_stays_ignored():
    for number in (signal.SIGINT, signal.SIGHUP):
        for name in ("echo", "udp_echo", "embed_poll"):
            with at_a_path(name, **ignoring(number)) as server:
                for _ in range(3):
                    os.kill(server.pid, number)
                    time.sleep(0.1)
                assert server.running(), f"{name} was stopped by an ignored {number.name}"
                serves(server, name)
                assert "stopping" not in server.errors(), server.errors()
                stops_well(server, name)


def nohup_survives_the_end_of_the_terminal():
    need("nohup")
    with Server("echo", under=["nohup"]) as server, server.connect() as client:
        os.kill(server.pid, signal.SIGHUP)
        time.sleep(0.2)
        assert server.running() and echoed(client), "the server did not survive SIGHUP"
        os.kill(server.pid, signal.SIGTERM)
        client.close()
        assert server.process.wait(10) == 0, server.errors()


def the_end_of_the_terminal_stops_a_server():
    default = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}
    with at_a_path("echo", **default) as server:
        code, _ = server.stop((signal.SIGHUP,))
        assert code == 0 and server.errors().splitlines()[-1].startswith("stopped: 0 "), server.errors()


def the_last_line_says_what_matters():
    with Server("echo", "--stats", "60") as server:
        clients = [server.connect() for _ in range(12)]
        assert all(map(echoed, clients))
        os.kill(server.pid, signal.SIGTERM)
        for client in clients:
            assert receive(client, 1) == b""
            client.close()
        assert server.process.wait(10) == 0
        lines = server.errors().splitlines()
    assert lines[-1] == "stopped: 12 connections were open, 12 finished, 0 cut", lines
    with at_a_path("udp_echo", "--stats", "60") as server:
        serves(server, "udp_echo")
        stops_well(server, "udp_echo")
        lines = server.errors().splitlines()
    assert lines[-1] == "stopped: 1 datagrams received, 1 sent, 0 dropped", lines


def a_signal_ends_a_server_that_looks_up_a_name():
    need("cc")
    with tempfile.TemporaryDirectory() as directory:
        library = os.path.join(directory, "silent.so")
        source = b"#include <unistd.h>\nint getaddrinfo(void) { for (;;) pause(); }\n"
        built = run(["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=source)
        if built.returncode:
            raise Skip(f"cannot build a look-up without an answer: {built.stderr.decode()}")
        for name in ("echo", "udp_echo", "ticker"):
            with Server(name, at=("localhost:0",), told=0, environment={"LD_PRELOAD": library}) as server:
                # Signals are handled before the look-up, which is in the fifth thread.
                assert wait_for(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == 5, 10), "no look-up"
                code, took = server.stop(within=10)
                errors = server.errors()
            assert code == 0 and took < 5, f"{name}: exit code {code} after {took:.1f} s: {errors}"
            last = errors.splitlines()[-1]
            assert last == 'stopped: cannot resolve "localhost": the reactor was stopped meanwhile', errors
    return f"after {took:.1f} s"


CHECKS = [
    a_server_outlives_its_standard_output,
    a_server_outlives_its_standard_error,
    head_gets_the_first_line_and_the_server_goes_on,
    a_reader_that_does_not_read_does_not_stop_the_server,
    nobody_reads_at_the_end_either,
    a_console_that_is_not_read_does_not_stop_the_server,
    a_nonblocking_stream_gets_every_line,
    help_that_cannot_be_printed_is_an_error,
    a_server_outlives_its_standard_input,
    typed_bytes_reach_the_clients_whatever_they_are,
    more_input_than_fits_reaches_a_client_that_reads,
    a_nonblocking_standard_input_is_read,
    the_last_command_needs_no_newline,
    a_server_in_the_background_of_a_terminal_is_not_stopped,
    an_ignored_signal_stays_ignored,
    nohup_survives_the_end_of_the_terminal,
    the_end_of_the_terminal_stops_a_server,
    the_last_line_says_what_matters,
    a_signal_ends_a_server_that_looks_up_a_name,
]

if __name__ == "__main__":
    sys.exit(harness.main(CHECKS, __doc__, programs=SERVERS))
