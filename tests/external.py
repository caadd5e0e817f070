#!/usr/bin/env python3
"""Injects faults into the example servers (release builds): system calls fail, descriptors run out, connections are
destroyed, and signals arrive.

    cargo build --release --examples
    python3 tests/external.py [target/release/examples [WORD OF A CHECK]...]

Uses strace (to make system calls fail and to list them), ss and setpriv. Skips checks whose tool is missing.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True

import harness
from harness import HOST, Server, Skip, echoed, need, pattern, receive, receive_all, run, wait_for

KIB, MIB = 1024, 1024 * 1024
TRACED = "accept4,/^epoll_,/^recv,/^send,/^writev?$,/^readv?$,setsockopt,shutdown,close"
# The numbers of the next calls of epoll_ctl and accept4 when the first connection arrives: before it, the waker and the
# listener are registered, and accept4 is called once.
FIRST_ADD, FIRST_ACCEPT = 3, 2


# ---- Tracing

def traced(program, *options, inject=None, **more):
    """Starts a server under strace, which writes to SCRATCH/trace and makes calls fail as `inject` says."""
    faults = ["-e", f"inject={inject}"] if inject else []
    # With -D the server is our child and strace is detached, so `pid` is the pid of the server.
    command = ["strace", "-D", "-f", "-ttt", "-s", "16", "-o", "SCRATCH/trace", "-e", f"trace={TRACED}", *faults]
    need_strace()
    return Server(program, *options, under=command, **more)


def need_strace():
    if need_strace.reason is None:
        need("strace")
        tried = run(["strace", "-D", "-f", "-o", "/dev/null", "-e", "inject=getppid:error=EPERM:when=1..2", "true"])
        need_strace.reason = "" if tried.returncode == 0 else tried.stderr.decode().strip().splitlines()[-1]
    if need_strace.reason:
        raise Skip(f"strace cannot inject here: {need_strace.reason}")


need_strace.reason = None


class Call:
    def __init__(self, line):
        self.text = line
        found = re.match(r"(?:\d+ +)?(\d+\.\d+) (\w+)\((.*)", line)
        self.time, self.name, self.rest = (float(found[1]), found[2], found[3]) if found else (0.0, "", "")
        self.injected = line.endswith("(INJECTED)")


def calls(server):
    """Returns the calls in the trace so far."""
    with open(os.path.join(server.scratch, "trace"), encoding="ascii", errors="replace") as file:
        return [call for call in map(Call, file.read().splitlines()) if call.name]


def named(trace, name):
    return [call for call in trace if re.fullmatch(name, call.name)]


def stopped(server):
    """Stops a traced server. Returns its counters and its complete trace."""
    count = server.stop_well()
    trace_path = os.path.join(server.scratch, "trace")

    def complete():
        with open(trace_path, encoding="ascii", errors="replace") as file:
            return f"{server.pid} " in (text := file.read()) and "+++ exited with" in text.splitlines()[-1]

    wait_for(complete, 5)
    return count, calls(server)


@contextlib.contextmanager
def closing():
    with contextlib.ExitStack() as stack:
        yield lambda client: stack.enter_context(contextlib.closing(client))


def waiting_clients(server, count, keep, message=b"I have waited\n"):
    """Returns clients that the kernel has connected (they wait in the backlog) and that have sent a message."""
    clients = [keep(server.connect(timeout=30)) for _ in range(count)]
    for client in clients:
        client.sendall(message)
    return clients


def all_served(clients, message=b"I have waited\n"):
    return [receive(client, len(message)) for client in clients] == [message] * len(clients)


# ---- Accepting

def out_of_descriptors(error):
    """20 accepts in a row fail with `error` while clients wait."""
    window = f"accept4:error={error}:when={FIRST_ACCEPT + 2}..{FIRST_ACCEPT + 21}"
    with traced("echo", "--stats", "60", inject=window) as server, closing() as keep:
        old = keep(server.connect())
        assert echoed(old)
        clients = waiting_clients(server, 20, keep)
        answered = 0
        while len(failures := [c for c in calls(server) if c.injected]) < 20:
            assert server.running(), "the server exited"
            assert answered < 2000, "the shortage does not end"
            assert echoed(old, b"ping"), "an open connection was not served during the shortage"
            answered += 1
            time.sleep(0.02)
        assert all_served(clients), "a waiting client was not served"
        count, trace = stopped(server)
        lines = [line for line in server.error_lines() if "cannot accept" in line]
    accepts = named(trace, "accept4")
    failures = [call for call in accepts if call.injected]
    window = failures[-1].time - failures[0].time
    between = [c for c in accepts if failures[0].time <= c.time <= failures[-1].time]
    assert len(between) == 20, f"{len(between)} accepts in the window of 20 failures"
    assert window > 19 * 0.095, f"20 tries in {window:.2f} s: the server spins"
    pauses = [b.time - a.time for a, b in zip(failures, failures[1:])]
    assert max(pauses) < 0.5, f"a pause of {max(pauses):.2f} s"
    assert count["accept_pauses"] == count["accept_errors"] == 20, count
    assert count["accepted"] == 21, count
    # The log limit: ten lines at once, then one per second. The next line counts the suppressed ones.
    assert 10 <= len(lines) <= 10 + window + 1, f"{len(lines)} lines for 20 pauses in {window:.1f} s: {lines}"
    return f"20 tries in {window:.2f} s, {answered} pings of an old client meanwhile, {len(lines)} lines"


def accepting_pauses_and_resumes_when_the_process_has_no_descriptors():
    return out_of_descriptors("EMFILE")


def accepting_pauses_and_resumes_when_the_system_has_no_descriptors():
    return out_of_descriptors("ENFILE")


def accepting_pauses_and_resumes_when_memory_is_short():
    return out_of_descriptors("ENOBUFS")


def each_accept_pause_logs_one_error_line():
    window = f"accept4:error=EMFILE:when={FIRST_ACCEPT}..{FIRST_ACCEPT + 4}"
    with traced("echo", "--stats", "60", inject=window) as server, closing() as keep:
        assert all_served(waiting_clients(server, 3, keep))
        count, _ = stopped(server)
        lines = server.error_lines()
    assert count["accept_pauses"] == 5 and len(lines) == 5, f"{count}, {lines}"
    assert all("too many open files" in line.lower() for line in lines), lines
    return lines[0].split("] ", 1)[-1]


def a_closed_connection_ends_the_accept_pause_at_once():
    # The accept of the second connection fails once, so that there is a first connection to close.
    window = f"accept4:error=EMFILE:when={FIRST_ACCEPT + 2}"
    with traced("echo", inject=window) as server, closing() as keep:
        old = keep(server.connect())
        assert echoed(old)
        new = keep(server.connect())
        assert wait_for(lambda: any(c.injected for c in calls(server)))
        old.close()
        assert echoed(new)
        _, trace = stopped(server)
    accepts = named(trace, "accept4")
    failed = next(i for i, call in enumerate(accepts) if call.injected)
    rest = accepts[failed + 1].time - accepts[failed].time
    assert rest < 0.09, f"accepting resumed after {rest * 1000:.0f} ms"
    return f"after {rest * 1000:.0f} ms"


def an_accept_error_of_one_connection_does_not_affect_others():
    """accept(2) may return errors that are pending on the connection that it would have returned."""
    figures = []
    for error in ("ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN", "EHOSTUNREACH", "ENONET", "EOPNOTSUPP", "ENOPROTOOPT"):
        window = f"accept4:error={error}:when={FIRST_ACCEPT}..{FIRST_ACCEPT + 99}"
        with traced("echo", "--stats", "60", inject=window) as server, closing() as keep:
            began = time.monotonic()
            assert all_served(waiting_clients(server, 30, keep)), error
            figures.append(f"{error} {time.monotonic() - began:.2f} s")
            count, trace = stopped(server)
            assert not server.error_lines(), server.error_lines()
        assert sum(c.injected for c in trace) == 100, error
        assert count["accepted"] == 30 and count["accept_errors"] == 100, f"{error}: {count}"
        assert "accept_pauses" not in count, f"{error}: {count}"
    return ", ".join(figures)


def an_unknown_accept_error_neither_stops_the_server_nor_makes_it_spin():
    window = f"accept4:error=EIO:when={FIRST_ACCEPT}..{FIRST_ACCEPT + 99}"
    with traced("echo", "--stats", "60", inject=window) as server, closing() as keep:
        assert all_served(waiting_clients(server, 30, keep))
        count, trace = stopped(server)
        lines = server.error_lines()
    failures = [call for call in trace if call.injected]
    span = failures[-1].time - failures[0].time
    assert count["accepted"] == 30 and count["accept_errors"] == 100, count
    # One pause after every tenth error.
    assert count["accept_pauses"] == 10 and span > 0.85, f"{count}, {span:.2f} s"
    assert 1 <= len(lines) <= 12, lines
    return f"100 errors in {span:.2f} s, {len(lines)} lines"


def a_connection_that_cannot_be_registered_is_closed_and_counted():
    """Each failed connection makes two failing calls: EPOLL_CTL_ADD, and EPOLL_CTL_DEL when it is closed."""
    window = f"epoll_ctl:error=ENOSPC:when={FIRST_ADD + 1}..{FIRST_ADD + 400}"
    with traced("echo", "--stats", "60", inject=window) as server, closing() as keep:
        old = keep(server.connect())
        assert echoed(old)
        before = server.descriptors()
        refused, until, most = 0, time.monotonic() + 60, before
        while refused < 200 and time.monotonic() < until:
            batch = [keep(server.connect()) for _ in range(20)]
            for client in batch:
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b"", "unexpected bytes"
                refused += 1
            most = max(most, server.descriptors())
            assert echoed(old, b"ping")
        assert wait_for(lambda: server.descriptors() == before), f"{before} descriptors, then {server.descriptors()}"
        assert all_served(waiting_clients(server, 10, keep)), "accepting does not resume"
        count, trace = stopped(server)
        lines = server.error_lines()
    failed = sum(c.injected and "EPOLL_CTL_ADD" in c.rest for c in trace)
    assert failed == count["register_failed"] == count["refused"] >= 200, f"{failed} failed: {count}"
    assert count["accepted"] == 11, count
    assert all("No space left" in line or "no space left" in line for line in lines) and lines, lines[:3]
    span = [c.time for c in trace if c.injected]
    return f"{failed} failures, {before} descriptors before and after, at most {most}, {len(lines)} lines in {span[-1] - span[0]:.0f} s"


def a_listener_that_cannot_be_registered_is_an_error_at_start():
    need_strace()
    window = f"inject=epoll_ctl:error=ENOSPC:when={FIRST_ADD - 1}"
    done = run(["strace", "-D", "-f", "-o", "/dev/null", "-e", window, program("echo"), f"{HOST}:0"])
    one_line(done, "no space left")


# ---- Polling, reading, writing

def interrupted_waits_lose_nothing():
    with traced("echo", "--stats", "60", inject="/^epoll_p?wait$:error=EINTR:when=1+3") as server, closing() as keep:
        clients = [keep(server.connect()) for _ in range(10)]
        data = pattern(200 * KIB)
        for client in clients:
            assert exchange(client, data) == data
        count, trace = stopped(server)
    injected = sum(c.injected for c in trace)
    assert injected > 10 and count["unsent"] == 0, f"{injected} interrupted, {count}"
    return f"{injected} of {len(named(trace, 'epoll_p?wait'))} waits interrupted"


def interrupted_reads_and_writes_lose_nothing():
    for call in ("recvfrom", "sendto", "accept4"):
        with traced("echo", "--stats", "60", inject=f"{call}:error=EINTR:when=2+3") as server, closing() as keep:
            data = pattern(100 * KIB)
            for _ in range(5):
                assert exchange(keep(server.connect()), data) == data, call
            _, trace = stopped(server)
        assert any(c.injected for c in trace), call


def exchange(client, data):
    """Sends all of `data` and half-closes, and meanwhile reads to the end. Returns what was received."""
    def send():
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = receive_all(client)
    sender.join(10)
    return received


def a_reset_connection_does_not_affect_others():
    with traced("echo", "--stats", "60", inject="recvfrom:error=ECONNRESET:when=50+50") as server, closing() as keep:
        rounds, resets = 0, 0
        clients = [keep(server.connect()) for _ in range(20)]
        for rounds in range(40):
            for place, client in enumerate(clients):
                try:
                    client.sendall(b"ping %d" % rounds)
                    got = receive(client, len(b"ping %d" % rounds))
                except ConnectionError:
                    got = b""
                if got == b"":
                    resets += 1
                    client.close()
                    clients[place] = keep(server.connect())
                else:
                    assert got == b"ping %d" % rounds, got
        count, trace = stopped(server)
    injected = sum(c.injected for c in trace)
    assert resets and injected == count["peer_reset"], f"{injected} injected, {resets} seen, {count}"
    return f"{injected} reset among {20 * rounds} pings, {resets} seen by clients"


def a_write_that_would_block_is_retried_at_the_next_event():
    """After an injected EAGAIN no event follows, unlike after a full buffer. So the clients keep sending until all
    bytes are back: new input makes the kernel report the socket as writable again."""
    with traced("echo", "--stats", "60", inject="sendto,sendmsg:error=EAGAIN:when=3+3") as server, closing() as keep:
        clients = [keep(server.connect(timeout=0.05)) for _ in range(10)]
        sent, got = [bytearray() for _ in clients], [bytearray() for _ in clients]
        nudges = 0
        source = pattern(4000)
        for start in range(0, len(source), 80):
            for client, out in zip(clients, sent):
                piece = source[start:start + 80]
                client.sendall(piece)
                out += piece
            time.sleep(0.01)
        for client, out, back in zip(clients, sent, got):
            for _ in range(400):
                if len(back) == len(out):
                    break
                try:
                    piece = client.recv(65536)
                    assert piece, "closed"
                    back += piece
                except TimeoutError:
                    nudges += 1
                    client.sendall(b"!")
                    out += b"!"
            assert back == out, f"{len(back)} of {len(out)} bytes, or wrong bytes"
        count, trace = stopped(server)
    injected = sum(c.injected for c in trace)
    total = sum(map(len, sent))
    assert injected > 20 and count["in"] == total, f"{injected}, {count['in']} of {total}"
    return f"{injected} writes refused, {nudges} nudges, {total} bytes exact"


def socket_options_are_set_on_the_listener_before_it_listens():
    with traced("echo") as server, closing() as keep:
        for _ in range(10):
            assert echoed(keep(server.connect()))
        _, trace = stopped(server)
    first = named(trace, "accept4")[0].time
    options = named(trace, "setsockopt")
    late = [c.text for c in options if c.time > first]
    assert not late, late
    assert any("TCP_NODELAY" in c.rest for c in options) and any("SO_KEEPALIVE" in c.rest for c in options)
    return f"{len(options)} calls for the listener, none for 10 connections"


# ---- System calls that a connection and a ping cost

def a_connection_is_registered_exactly_once():
    """Also while reading is paused, and while output waits."""
    connections = 10
    with traced("echo", "--stats", "60") as server:
        data = pattern(8 * MIB)
        for _ in range(connections):
            with contextlib.closing(server.connect(receive_buffer=64 * KIB)) as client:
                sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
                sender.start()
                time.sleep(0.1)
                assert receive_all(client) == data
                sender.join(10)
        count, trace = stopped(server)
    control = named(trace, "epoll_ctl")
    number = lambda what: sum(f"EPOLL_CTL_{what}" in c.rest for c in control)
    blocked = sum("EAGAIN" in c.rest for c in named(trace, "sendto|sendmsg"))
    assert blocked, "no write had to wait, so the check proves nothing"
    assert number("ADD") == connections + 2, f"{number('ADD')} added"
    assert number("MOD") == 0, f"{number('MOD')} changed"
    assert number("DEL") == connections + 1, f"{number('DEL')} removed"
    assert count["peer_closed"] == connections, count
    return f"{connections} added, 0 changed, {connections} removed, {blocked} writes had to wait"


def a_ping_costs_one_read_and_one_write():
    connections, rounds = 50, 20
    with traced("echo", "--stats", "60") as server, closing() as keep:
        clients = [keep(server.connect()) for _ in range(connections)]
        for client in clients:
            assert echoed(client)
        # strace writes line by line: wait until the trace contains all earlier calls.
        time.sleep(0.3)
        before = len(calls(server))
        for _ in range(rounds):
            for client in clients:
                client.sendall(b"ping")
            for client in clients:
                assert receive(client, 4) == b"ping"
        time.sleep(0.3)
        trace = calls(server)[before:]
        count, _ = stopped(server)
    pings = connections * rounds
    reads, writes = len(named(trace, "recv.*|readv?")), len(named(trace, "send.*|writev?"))
    waits = len(named(trace, "epoll_p?wait"))
    others = [c.text for c in trace if not re.fullmatch("recvfrom|sendto|epoll_p?wait", c.name)]
    # Without the flag, a write to a connection that was reset would end a process that does not ignore SIGPIPE.
    loud = [c.text for c in named(trace, "send.*") if "MSG_NOSIGNAL" not in c.text]
    assert not loud, loud[:3]
    assert reads == pings and writes == pings, f"{reads} reads and {writes} writes for {pings} pings"
    assert waits < pings / 2, f"{waits} waits for {pings} pings"
    assert not others, others[:3]
    return f"{pings} pings on {connections} connections: {reads} reads, {writes} writes, {waits} waits, nothing else"


def a_clean_close_never_sets_so_linger():
    with traced("framed", "--stats", "60", "--idle-timeout", "0.5") as server, closing() as keep:
        for _ in range(5):
            client = keep(server.connect())
            client.sendall(b"\0\0\0\5hello")
            client.shutdown(socket.SHUT_WR)
            assert receive_all(client) == b"\0\0\0\5hello"
        for _ in range(5):
            assert echoed(keep(server.connect()), b"\0\0\0\2hi")
        count, trace = stopped(server)
    linger = [c.text for c in named(trace, "setsockopt") if "SO_LINGER" in c.rest]
    assert not linger, linger
    assert count["peer_closed"] == 5 and count["shutdown"] + count.get("idle_timeout", 0) == 5, count
    return "10 closes, 5 of them by the server"


# ---- The limit of descriptors on the live server

def a_server_at_its_descriptor_limit_pauses_accepting_and_resumes():
    if not hasattr(resource, "prlimit"):
        raise Skip("this Python cannot change the limits of another process")
    clients_waiting, window = 50, 3.0
    with Server("echo", "--stats", "60") as server, closing() as keep:
        old = keep(server.connect())
        assert echoed(old)
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        try:
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.descriptors() + 10, hard))
        except PermissionError as error:
            raise Skip(f"the limits of another process cannot be changed: {error}") from None
        clients = waiting_clients(server, clients_waiting, keep)
        assert wait_for(lambda: server.error_lines()), "no error line"
        time.sleep(0.3)
        cpu, began, slowest = server.cpu_seconds(), time.monotonic(), 0.0
        while time.monotonic() < began + window:
            asked = time.monotonic()
            assert echoed(old, b"ping"), "an open connection was not served at the limit"
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.05)
        share = (server.cpu_seconds() - cpu) / (time.monotonic() - began)
        early = sum(bool(readable(client)) for client in clients)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
        relief = time.monotonic()
        assert all_served(clients), "a waiting client was not served after the limit was raised"
        relief = time.monotonic() - relief
        count = server.stop_well()
        lines = server.error_lines()
    assert 8 <= early <= 10, f"{early} served at the limit"
    assert share < 0.2, f"{share:.0%} of a core while accepting is paused"
    assert count["accepted"] == clients_waiting + 1, count
    assert len(lines) <= 10 + window + 2, f"{len(lines)} lines"
    return (f"{early} of {clients_waiting} at the limit, {share:.1%} of a core, slowest ping {slowest * 1000:.0f} ms, "
            f"the others {relief * 1000:.0f} ms after the limit was raised, {len(lines)} lines")


def readable(client):
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
    finally:
        client.settimeout(30)


# ---- Connections destroyed from outside

def destroyed_connections_are_counted_and_do_not_affect_others():
    need("ss")
    with Server("echo", "--stats", "60") as server, closing() as keep:
        victims = [keep(server.connect()) for _ in range(10)]
        others = [keep(server.connect()) for _ in range(10)]
        assert all(map(echoed, victims + others))
        for victim in victims:
            # Destroy the server's end.
            run(["ss", "-K", "-t", "-n", "src", f"{HOST}:{server.port}", "dst", f"{HOST}:{victim.getsockname()[1]}"])
        dead = sum(is_dead(victim) for victim in victims)
        if dead == 0:
            raise Skip("ss cannot destroy connections here")
        assert all(map(echoed, others)), "another connection was not served"
        assert wait_for(lambda: server.descriptors() <= 20 + 10)
        count = server.stop_well()
    assert dead == 10 == count.get("peer_reset", 0) + count.get("io_error", 0), f"{dead} destroyed, {count}"
    return f"10 destroyed, peer_reset {count.get('peer_reset', 0)}, io_error {count.get('io_error', 0)}"


def is_dead(client):
    client.settimeout(1)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def a_client_that_resets_is_counted_and_does_not_affect_others():
    with Server("echo", "--stats", "60") as server, closing() as keep:
        other = keep(server.connect())
        for _ in range(100):
            client = server.connect()
            assert echoed(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert echoed(other)
        count = server.stop_well()
    assert count["peer_reset"] == 100, count


# ---- Signals

def signals_shut_the_server_down_gracefully():
    figures = []
    for options in ((), ("--stats", "60")):
        for number in (signal.SIGINT, signal.SIGTERM):
            for clients in (0, 3):
                with Server("echo", *options) as server, closing() as keep:
                    connected = [keep(server.connect()) for _ in range(clients)]
                    assert all(map(echoed, connected))
                    # The clients read the FIN and close.
                    enders = [threading.Thread(target=lambda c=c: (receive_all(c), c.close())) for c in connected]
                    for ender in enders:
                        ender.start()
                    code, took = server.stop((number,), within=8)
                    for ender in enders:
                        ender.join(5)
                    figures.append(took)
                    assert code == 0, f"{number.name} {options}: exit code {code}"
                    assert took < 2, f"{number.name} {options} with {clients} clients took {took:.1f} s"
                    said = f"stopped: {clients} connections were open, {clients} finished, 0 cut"
                    assert server.errors().splitlines()[-1] == said, server.errors()
    return f"in {max(figures) * 1000:.0f} ms at most"


def who_spoke_while_the_server_was_stopped_is_served():
    figures = []
    for _ in range(5):
        with Server("echo", "--idle-timeout", "1", "--stats", "60") as server, closing() as keep:
            speaker, silent = keep(server.connect()), keep(server.connect())
            assert echoed(speaker) and echoed(silent)
            os.kill(server.pid, signal.SIGSTOP)
            began = time.monotonic()
            time.sleep(2.5)
            speaker.sendall(b"in the third second")
            time.sleep(0.5)
            os.kill(server.pid, signal.SIGCONT)
            assert receive(speaker, 19) == b"in the third second"
            assert receive(silent, 1) == b"", "silent, and still open"
            figures.append(time.monotonic() - began)
            server.stop()
    return f"{len(figures)} times, answered {max(figures):.1f} s after the stop at the latest"


def a_client_that_never_closes_delays_the_shutdown_only_briefly():
    with Server("echo", "--stats", "60") as server, closing() as keep:
        assert echoed(keep(server.connect()))
        code, took = server.stop(within=15)
        errors = server.errors()
    assert code == 0 and "stopped: 1 connections were open, 1 finished, 0 cut" in errors, errors
    assert 1.5 < took < 5, f"{took:.1f} s"
    return f"{took:.1f} s"


def a_second_signal_stops_the_server_at_once():
    with Server("echo", "--stats", "60") as server, closing() as keep:
        # One client never closes, another never reads.
        assert echoed(keep(server.connect()))
        deaf = keep(server.connect(receive_buffer=4 * KIB))
        stuff(deaf)
        code, took = server.stop((signal.SIGINT, signal.SIGINT), within=9)
        errors = server.errors()
    assert code == 0, f"exit code {code}"
    assert took < 1, f"{took:.1f} s"
    assert "stopped: 2 connections were open, 1 finished, 1 cut" in errors, errors
    lost = int(re.search(r"\((\d+) bytes unsent\)", errors)[1])
    assert lost > 0, errors
    return f"{took * 1000:.0f} ms, {lost} bytes unsent, and reported"


def stuff(client, longest=2.0):
    """Sends until writes have blocked for 0.3 s. Returns how many bytes were sent."""
    client.setblocking(False)
    sent, quiet, until = 0, time.monotonic(), time.monotonic() + longest
    while time.monotonic() - quiet < 0.3 and time.monotonic() < until:
        try:
            sent += client.send(b"x" * 65536)
            quiet = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    return sent


# ---- Addresses that cannot be listened on

def program(name):
    return os.path.join(harness.EXAMPLES, name)


def one_line(done, *words):
    text = done.stderr.decode()
    assert done.returncode == 1, f"exit code {done.returncode}: {text}"
    assert len(text.splitlines()) == 1 and text.startswith("error: "), text
    assert all(word.lower() in text.lower() for word in words), text
    assert not done.stdout, done.stdout
    return text.strip()


def a_port_in_use_prints_one_clear_line():
    with Server("echo") as server:
        return one_line(run([program("framed"), f"{HOST}:{server.port}"]), "in use", f"{HOST}:{server.port}")


def a_bad_address_prints_one_clear_line():
    lines = [
        one_line(run([program("echo"), "192.0.2.77:4000"]), "192.0.2.77:4000"),
        one_line(run([program("echo"), "nonsense"]), "nonsense", "the port is missing", "accepted"),
        one_line(run([program("echo"), "7000"]), "the host before the port is missing", "accepted"),
        one_line(run([program("echo"), f"{HOST}:70000"]), "70000"),
        one_line(run([program("echo"), "unix:/nonexistent/directory/socket"]), "/nonexistent/directory/socket"),
    ]
    return " | ".join(lines)


def a_privileged_port_prints_one_clear_line():
    need("setpriv")
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        if int(file.read()) <= 81:
            raise Skip("no port is privileged here")
    if os.geteuid() != 0:
        return one_line(run([program("echo"), f"{HOST}:81"]), "permission denied", f"{HOST}:81")
    with tempfile.TemporaryDirectory() as directory:
        # A directory in which another user can run the program.
        os.chmod(directory, 0o755)
        copy = shutil.copy(program("echo"), directory)
        return one_line(
            run(["setpriv", "--reuid", "65534", "--clear-groups", copy, f"{HOST}:81"]), "permission denied", f"{HOST}:81"
        )


# ---- Memory and slow clients

def clients_that_never_read_take_bounded_memory():
    number = 200
    with Server("echo", "--stats", "60") as server, closing() as keep:
        good = [keep(server.connect()) for _ in range(5)]
        assert all(map(echoed, good))
        base = server.resident_bytes()
        deaf = [keep(server.connect(receive_buffer=16 * KIB, send_buffer=64 * KIB)) for _ in range(number)]
        for client in deaf:
            client.setblocking(False)
        sent, most, slowest = [0] * number, base, 0.0
        block, until, quiet = b"y" * 65536, time.monotonic() + 15, time.monotonic()
        while time.monotonic() < until and time.monotonic() - quiet < 1.0:
            for place, client in enumerate(deaf):
                with contextlib.suppress(BlockingIOError):
                    sent[place] += client.send(block)
                    quiet = time.monotonic()
            most = max(most, server.resident_bytes())
            for client in good:
                asked = time.monotonic()
                assert echoed(client, b"still there?"), "a good client was not served"
                slowest = max(slowest, time.monotonic() - asked)
        assert time.monotonic() < until, "the server still reads from them"
        assert sum(sent) > number * 256 * KIB, "too little was sent to prove anything"
        # Per peer: the output at which reading stops, one more read, and rounding of the allocator.
        bound = base + number * (256 * KIB + 64 * KIB + 64 * KIB) + 4 * MIB
        for client in deaf:
            client.close()
        assert wait_for(lambda: server.descriptors() < 30, 10), "the connections are still open"
        assert all(map(echoed, good))
        after = server.resident_bytes()
        count = server.stop_well()
    figures = (f"{sum(sent) // MIB} MiB sent, resident {base / MIB:.1f} MiB before, {most / MIB:.1f} at most "
               f"({(most - base) / number / KIB:.0f} KiB each), {after / MIB:.1f} after; slowest ping {slowest * 1000:.0f} ms")
    assert most <= bound, f"{figures}, at most {bound / MIB:.1f} allowed"
    assert count.get("output_limit", 0) == 0, count
    return figures


def a_length_of_four_gib_is_refused_and_takes_no_memory():
    with Server("framed", "--stats", "60") as server, closing() as keep:
        good = keep(server.connect())
        assert echoed(good, b"\0\0\0\2hi")
        base = server.resident_bytes()
        for _ in range(20):
            bad = keep(server.connect())
            bad.sendall(b"\xff\xff\xff\xff" + b"z" * 1000)
            with contextlib.suppress(ConnectionResetError):
                assert receive_all(bad) == b""
        assert echoed(good, b"\0\0\0\2hi")
        grown = server.resident_bytes() - base
        count = server.stop_well()
    assert count["frame_too_long"] == 20, count
    assert grown < MIB, f"{grown // KIB} KiB"
    return f"20 refused, {grown // KIB} KiB more"


def clients_that_send_byte_by_byte_are_served():
    with Server("framed", "--stats", "60") as server, closing() as keep:
        slow = [keep(server.connect()) for _ in range(20)]
        fast = keep(server.connect())
        for client in slow:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = b"\0\0\0\x10sixteen letters!"
        slowest = 0.0
        for byte in message:
            for client in slow:
                client.sendall(bytes([byte]))
            asked = time.monotonic()
            assert echoed(fast, b"\0\0\0\2hi")
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.03)
        assert [receive(client, len(message)) for client in slow] == [message] * 20
        count = server.stop_well()
    assert count["messages_in"] == 20 + len(message), count
    return f"slowest ping of another {slowest * 1000:.1f} ms"


CHECKS = [
    accepting_pauses_and_resumes_when_the_process_has_no_descriptors,
    accepting_pauses_and_resumes_when_the_system_has_no_descriptors,
    accepting_pauses_and_resumes_when_memory_is_short,
    each_accept_pause_logs_one_error_line,
    a_closed_connection_ends_the_accept_pause_at_once,
    an_accept_error_of_one_connection_does_not_affect_others,
    an_unknown_accept_error_neither_stops_the_server_nor_makes_it_spin,
    a_connection_that_cannot_be_registered_is_closed_and_counted,
    a_listener_that_cannot_be_registered_is_an_error_at_start,
    interrupted_waits_lose_nothing,
    interrupted_reads_and_writes_lose_nothing,
    a_reset_connection_does_not_affect_others,
    a_write_that_would_block_is_retried_at_the_next_event,
    socket_options_are_set_on_the_listener_before_it_listens,
    a_connection_is_registered_exactly_once,
    a_ping_costs_one_read_and_one_write,
    a_clean_close_never_sets_so_linger,
    a_server_at_its_descriptor_limit_pauses_accepting_and_resumes,
    destroyed_connections_are_counted_and_do_not_affect_others,
    a_client_that_resets_is_counted_and_does_not_affect_others,
    signals_shut_the_server_down_gracefully,
    who_spoke_while_the_server_was_stopped_is_served,
    a_client_that_never_closes_delays_the_shutdown_only_briefly,
    a_second_signal_stops_the_server_at_once,
    a_port_in_use_prints_one_clear_line,
    a_bad_address_prints_one_clear_line,
    a_privileged_port_prints_one_clear_line,
    clients_that_never_read_take_bounded_memory,
    a_length_of_four_gib_is_refused_and_takes_no_memory,
    clients_that_send_byte_by_byte_are_served,
]

if __name__ == "__main__":
    sys.exit(harness.main(CHECKS, __doc__))
