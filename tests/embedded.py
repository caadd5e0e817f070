#!/usr/bin/env python3
"""Checks the examples that run inside another event loop, and listeners that a supervisor passes to a server.

    cargo build --release --examples
    python3 tests/embedded.py [target/release/examples [WORD OF A CHECK]...]
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import harness
from harness import HOST, Server, echoed, need, pattern, receive, run, wait_for

MIB = 1024 * 1024


def console(*options):
    """Starts embed_poll with a pipe as its standard input."""
    return Server("embed_poll", *options, stdin=subprocess.PIPE)


def say(server, text):
    server.process.stdin.write(text.encode())
    server.process.stdin.flush()


def ask(server, text):
    say(server, text + "\n")
    return server.line(5)


def idle_cpu(server):
    """Returns the CPU seconds that the server takes in one idle second."""
    before = server.cpu_seconds()
    time.sleep(1)
    return server.cpu_seconds() - before


# ---- Inside poll(2)

def typed_commands_run_while_clients_are_served():
    with console() as server, server.connect() as client:
        assert echoed(client, b"before")
        assert (line := ask(server, "stats")).startswith("open 1 accepted 1 "), line
        line = ask(server, "connections")
        port = client.getsockname()[1]
        pattern_of_line = rf"#0\.0 127\.0\.0\.1:{port} open, age .* 6 B in, 6 B out, turnwheel::.*Echo"
        assert re.fullmatch(pattern_of_line, line), line
        assert server.line() == "1 connections"
        assert (wrong := ask(server, "bogus")) == '"bogus" is none of: stats, connections, quit', wrong
        # A command in two pieces, two commands in one piece, and a command that is far too long.
        say(server, "sta")
        assert echoed(client, b"between")
        say(server, "ts\n\nconnections\n" + "x" * 5000 + "\n")
        lines = [server.line(5) for _ in range(4)]
        assert lines[0].startswith("open 1 ") and lines[2] == "1 connections" and "none of" in lines[3], lines
        say(server, "quit\n")
        assert receive(client, 1) == b""
        assert server.process.wait(timeout=10) == 0, server.errors()
        assert "stopped: 1 connections were open, 1 finished, 0 cut" in server.errors(), server.errors()


def the_server_keeps_running_after_standard_input_is_closed():
    with console() as server:
        server.process.stdin.close()
        with server.connect() as client:
            assert echoed(client)
            cpu = idle_cpu(server)
            assert cpu < 0.1, f"{cpu} s of CPU time in an idle second"
            assert server.stop()[0] == 0, server.errors()


def typed_commands_run_while_a_client_floods_the_server():
    with console() as server, server.connect(timeout=20) as client:
        client.setblocking(False)
        data, until = pattern(MIB), time.monotonic() + 2
        asked = answered = sent = 0
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                sent += client.send(data)
            with contextlib.suppress(BlockingIOError):
                client.recv(MIB)
            if asked == answered:
                say(server, "stats\n")
                asked += 1
            answered = server.lines.qsize()
        assert answered >= 10, f"{answered} answers while {sent} bytes were sent"
        return f"{answered} answers while {sent // MIB} MiB were sent"


# ---- Inside tokio

def the_reactor_and_tokio_serve_side_by_side():
    with Server("embed_tokio", "--tokio", f"{HOST}:0", "--every", "100") as server:
        line = server.line()
        assert line.startswith("tokio is listening on "), line
        other = int(line.rsplit(":", 1)[1])
        with server.connect() as one, socket.create_connection((HOST, other), timeout=10) as two:
            for round in range(100):
                assert echoed(one, b"the reactor %d" % round) and echoed(two, b"a task %d" % round)
            big = pattern(200 * 1024)
            for client in (one, two):
                client.sendall(big[:100_000])
            assert receive(one, 100_000) == receive(two, 100_000) == big[:100_000]
        ticks = server.errors().count("tokio has echoed")
        assert wait_for(lambda: server.errors().count("tokio has echoed") > ticks), "tokio's timer does not fire"
        assert server.stop()[0] == 0, server.errors()


def an_idle_reactor_in_tokio_takes_no_cpu_time():
    with Server("embed_tokio", "--tokio", f"{HOST}:0") as server, server.connect() as client:
        assert echoed(client)
        cpu = idle_cpu(server)
        assert cpu < 0.1, f"{cpu} s of CPU time in an idle second"


def the_idle_timeout_works_in_both_loops():
    for name, options in (("embed_poll", []), ("embed_tokio", ["--tokio", f"{HOST}:0"])):
        with Server(name, *options, "--idle-timeout", "0.3") as server, server.connect() as client:
            began = time.monotonic()
            assert receive(client, 1) == b""
            took = time.monotonic() - began
            assert 0.25 < took < 5, f"{name}: {took:.2f} s"


def control_c_stops_both_and_a_second_signal_stops_them_at_once():
    told = []
    for name, options in (("embed_poll", []), ("embed_tokio", ["--tokio", f"{HOST}:0"])):
        with Server(name, *options) as server, server.connect() as client:
            assert echoed(client)
            code, took = server.stop()
            assert code == 0 and "stopped: 1 connections were open, 1 finished" in server.errors(), server.errors()
            told.append(f"{name} {took:.1f} s")
        with Server(name, *options) as server, server.connect() as client:
            # The client reads nothing, so that the server has unsent output to wait for.
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while client.send(b"x" * 65536):
                    pass
            code, took = server.stop(signals=(signal.SIGINT, signal.SIGTERM))
            assert code == 0 and took < 5, f"{name}: exit code {code} after {took:.1f} s"
    return ", ".join(told)


# ---- LISTEN_FDS

# Moves the passed descriptors to the numbers from 3 on, and executes the server. LISTEN_PID must be the pid of the
# server, which is known only here.
GIVE = """
import os, sys
descriptors, pid, *command = sys.argv[1:]
for number, descriptor in enumerate(descriptors.split(","), 3):
    os.dup2(int(descriptor), number)
os.environ["LISTEN_FDS"] = str(number - 2)
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.execv(command[0], command)
"""


def given(*files, pid=""):
    """Returns the options that start a `Server` with these sockets, as a supervisor does."""
    descriptors = [file.fileno() for file in files]
    names = ",".join(map(str, descriptors))
    return {"under": (sys.executable, "-c", GIVE, names, pid), "pass_fds": descriptors}


@contextlib.contextmanager
def listener_at(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(16)
        # A number above those that the server receives, so that dup2 does not overwrite it.
        with socket.socket(fileno=os.dup2(listener.fileno(), 9 + listener.fileno())) as moved:
            yield moved


def listeners_of_a_supervisor_are_taken_over():
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        path = os.path.join(directory, "given.sock")
        tcp = stack.enter_context(listener_at((HOST, 0)))
        unix = stack.enter_context(listener_at(path, socket.AF_UNIX))
        # A client that connects before the server starts waits in the listen backlog.
        early = stack.enter_context(socket.create_connection(tcp.getsockname(), timeout=10))
        early.sendall(b"early")
        with Server("echo", at=(), told=2, **given(tcp, unix)) as server:
            assert server.addresses == ["%s:%d" % tcp.getsockname(), f"unix:{path}"], server.addresses
            assert receive(early, 5) == b"early"
            with server.connect() as client, socket.socket(socket.AF_UNIX) as local:
                local.settimeout(10)
                local.connect(path)
                assert echoed(client) and echoed(local)
            assert server.stop()[0] == 0, server.errors()
        assert os.path.exists(path), "the file belongs to the supervisor"
        return ", ".join(server.addresses)


def inherited_and_named_listeners_are_served_together():
    with listener_at((HOST, 0)) as tcp, Server("echo", told=2, **given(tcp)) as server:
        for address in server.addresses:
            with socket.create_connection((HOST, int(address.rsplit(":", 1)[1])), timeout=10) as client:
                assert echoed(client)


def listeners_for_another_process_are_ignored():
    with listener_at((HOST, 0)) as tcp, Server("echo", told=1, **given(tcp, pid="1")) as server:
        assert server.port != tcp.getsockname()[1]
        assert server.lines.empty()


def an_inherited_descriptor_that_is_not_a_listener_is_refused():
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe, open(writer, "wb"):
        with open(os.dup2(pipe.fileno(), 19), "rb") as moved:
            how = given(moved)
            program = os.path.join(harness.EXAMPLES, "echo")
            done = run([*how["under"], program, f"{HOST}:0"], pass_fds=how["pass_fds"])
    text = done.stderr.decode()
    assert done.returncode == 1, done
    assert "LISTEN_FDS: neither a TCP nor a Unix listener: fd 3 is not a socket" in text, text
    return text.strip()


def systemd_socket_activate_starts_the_server():
    need("systemd-socket-activate")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    program = os.path.join(harness.EXAMPLES, "echo")
    command = ["systemd-socket-activate", "-l", f"{HOST}:{port}", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            client = None

            def connected():
                nonlocal client
                with contextlib.suppress(ConnectionRefusedError):
                    client = socket.create_connection((HOST, port), timeout=10)
                return client is not None

            assert wait_for(connected), "no listener"
            with client:
                assert echoed(client)
            assert process.stdout.readline() == b"listening on %s:%d\n" % (HOST.encode(), port)
        finally:
            process.terminate()


CHECKS = [
    typed_commands_run_while_clients_are_served,
    the_server_keeps_running_after_standard_input_is_closed,
    typed_commands_run_while_a_client_floods_the_server,
    the_reactor_and_tokio_serve_side_by_side,
    an_idle_reactor_in_tokio_takes_no_cpu_time,
    the_idle_timeout_works_in_both_loops,
    control_c_stops_both_and_a_second_signal_stops_them_at_once,
    listeners_of_a_supervisor_are_taken_over,
    inherited_and_named_listeners_are_served_together,
    listeners_for_another_process_are_ignored,
    an_inherited_descriptor_that_is_not_a_listener_is_refused,
    systemd_socket_activate_starts_the_server,
]

if __name__ == "__main__":
    sys.exit(harness.main(CHECKS, __doc__))
