#!/usr/bin/env python3
"""Runs the example proxy with real clients and servers: checks the bytes, the memory and the CPU time.

Build the examples first: cargo build --release --examples
"""

import hashlib
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time

import harness
from harness import HOST, Server, Skip, buffered, main, need, pattern, receive, receive_all, run, wait_for

MIB = 1 << 20


class Target:
    """A server that calls one function for each connection, in a new thread."""

    def __init__(self, serve, family=socket.AF_INET, path=None):
        self.listener = socket.socket(socket.AF_UNIX if path else family, socket.SOCK_STREAM)
        self.listener.bind(path or ("::1" if family == socket.AF_INET6 else HOST, 0))
        self.listener.listen(256)
        self.serve = serve
        self.results = []
        self.failures = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        name = self.listener.getsockname()
        if isinstance(name, str):
            return f"unix:{name}"
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection:
                connection.settimeout(60)
                self.results.append(self.serve(connection))
        except OSError as error:
            self.failures.append(error)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def proxy(target, *options, listen=f"{HOST}:0"):
    """Starts a proxy to a target."""
    return Server("proxy", target, *options, at=(listen,))


def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)


def all_then_answer(connection):
    """Reads to the end and then answers, which needs the other half of the connection to stay open."""
    data = receive_all(connection)
    connection.sendall(b"%d " % len(data) + hashlib.sha256(data).hexdigest().encode())
    return len(data)


def bytes_pass_both_ways_and_each_half_closes_separately():
    data = pattern(3 * MIB)
    with Target(all_then_answer) as target, proxy(target.address) as server, server.connect(timeout=60) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = receive_all(client)
        expected = b"%d " % len(data) + hashlib.sha256(data).hexdigest().encode()
        assert answer == expected, answer
        assert server.error_lines() == [], server.errors()


def a_target_that_half_closes_first_still_gets_all_input():
    def greet_then_read(connection):
        connection.sendall(b"that is all from me")
        connection.shutdown(socket.SHUT_WR)
        return len(receive_all(connection))

    with Target(greet_then_read) as target, proxy(target.address) as server, server.connect() as client:
        assert receive_all(client) == b"that is all from me"
        client.sendall(pattern(MIB))
        client.shutdown(socket.SHUT_WR)
        assert wait_for(lambda: target.results), "the target received no FIN"
        assert target.results == [MIB], target.results


def dead_target():
    """Returns the address of a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


def ends_with_reset(client):
    """Receives to the end. Returns what came, and whether a reset was the end."""
    data = bytearray()
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionResetError:
        return bytes(data), True
    return bytes(data), False


def a_client_whose_target_cannot_be_reached_is_reset_and_gets_no_byte():
    for target in [dead_target(), "unix:/nowhere/at/all", "no-such-host.invalid:80"]:
        with proxy(target) as server, server.connect(timeout=30) as client:
            assert ends_with_reset(client) == (b"", True)
            assert server.sees(f"cannot connect to {target}"), server.errors()


def with_say_why_the_client_is_told_why_its_target_cannot_be_reached():
    dead = dead_target()
    told = []
    for target, expected in [
        (dead, f"proxy: cannot connect to {dead}: Connection refused (os error 111)\n"),
        ("unix:/nowhere/at/all", "proxy: cannot connect to unix:/nowhere/at/all: No such file or directory (os error 2)\n"),
        ("no-such-host.invalid:80", "proxy: cannot connect to no-such-host.invalid:80: cannot resolve"),
    ]:
        with proxy(target, "--say-why") as server, server.connect(timeout=30) as client:
            answer = receive_all(client).decode()
            assert answer.startswith(expected), answer
            told.append(answer.strip())
    return told[0]


def served(clients):
    """Returns the clients that are served: their targets greet them."""
    found = []
    for client in clients:
        client.settimeout(0)
        try:
            if client.recv(5, socket.MSG_PEEK) == b"hello":
                found.append(client)
        except BlockingIOError:
            pass
    return found


def half_as_many_pairs_are_served_and_the_rest_wait(server, pairs):
    """Ten clients at once: so many pairs are served, each place that a pair leaves is taken, and nobody is refused."""
    clients = [server.connect() for _ in range(10)]
    assert wait_for(lambda: len(served(clients)) == pairs), f"{len(served(clients))} served"
    # The others are not accepted in vain meanwhile.
    time.sleep(0.3)
    waiting = clients
    while waiting:
        done = served(waiting)
        assert len(done) == min(pairs, len(waiting)), f"{len(done)} served of {len(waiting)}"
        waiting = [client for client in waiting if client not in done]
        for client in done:
            client.close()
        assert wait_for(lambda: len(served(waiting)) == min(pairs, len(waiting))), f"{len(served(waiting))} served"
    assert server.running() and "cannot connect" not in server.errors(), server.errors()


def greet(connection):
    connection.sendall(b"hello")
    return receive_all(connection)


def at_the_limit_of_connections_half_as_many_pairs_are_served_and_the_rest_wait():
    with Target(greet) as target, proxy(target.address, "--max-connections", "10") as server:
        half_as_many_pairs_are_served_and_the_rest_wait(server, 5)
    with Target(greet) as target, proxy(target.address, "--max-connections", "3") as server:
        half_as_many_pairs_are_served_and_the_rest_wait(server, 1)


def at_the_limit_of_descriptors_half_as_many_pairs_are_served_and_the_rest_wait():
    if not hasattr(resource, "prlimit"):
        raise Skip("no prlimit here")
    for left, pairs in [(10, 5), (7, 3)]:
        with Target(greet) as target, proxy(target.address) as server:
            most = server.descriptors() + left
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
            half_as_many_pairs_are_served_and_the_rest_wait(server, pairs)


def a_limit_that_leaves_no_place_for_a_target_is_refused_at_the_start():
    done = run([os.path.join(harness.EXAMPLES, "proxy"), f"{HOST}:0", f"{HOST}:1", "--max-connections", "1"])
    said = done.stderr.decode()
    assert done.returncode == 1 and "limit connections is 1, but must be at least 1 + " in said, said
    return said.strip()


def an_answer_is_delivered_before_its_senders_reset_is_passed_on():
    answer = pattern(48 * 1024)

    def answer_and_reset(connection):
        connection.sendall(answer)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with Target(answer_and_reset) as target, proxy(target.address) as server:
        with server.connect(receive_buffer=4096) as client:
            time.sleep(0.5)
            assert ends_with_reset(client) == (answer, True)


def a_reader_that_pauses_is_not_cut_unless_there_is_a_write_timeout():
    data = pattern(16 * MIB)

    def send(connection):
        connection.sendall(data)

    with Target(send) as target, proxy(target.address, "--write-timeout", "1") as impatient, proxy(target.address) as server:
        with server.connect(timeout=60) as patient, impatient.connect(timeout=60) as other:
            assert wait_for(lambda: "peer stopped reading" in impatient.errors(), 10), impatient.errors()
            assert ends_with_reset(other)[1]
            # The write timeout of the library would be 30 s.
            time.sleep(31)
            assert receive_all(patient) == data, "cut"


def unix_sockets_and_ipv6_work_on_either_side():
    with Target(echo, path=f"/tmp/turnwheel-proxy-{os.getpid()}") as target:
        try:
            with proxy(target.address) as server, server.connect() as client:
                client.sendall(b"over a unix socket")
                assert receive(client, 18) == b"over a unix socket"
        finally:
            os.unlink(target.address.removeprefix("unix:"))
    if not socket.has_ipv6:
        raise Skip("no IPv6 here")
    path = f"/tmp/turnwheel-proxy-in-{os.getpid()}"
    with Target(echo, family=socket.AF_INET6) as target, proxy(target.address, listen=f"unix:{path}"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            client.sendall(b"to IPv6")
            assert receive(client, 7) == b"to IPv6"


def many_clients_at_once_get_their_own_bytes():
    with Target(echo) as target, proxy(target.address) as server:
        clients = [server.connect(timeout=30) for _ in range(200)]
        messages = [pattern(20_000, seed=i) for i in range(len(clients))]
        for client, message in zip(clients, messages):
            client.sendall(message)
        for i, (client, message) in enumerate(zip(clients, messages)):
            assert receive(client, len(message)) == message, f"client {i} got something else"
            client.close()
        assert wait_for(lambda: server.descriptors() < 20, 10), f"{server.descriptors()} descriptors left"


def a_reset_on_one_side_is_passed_to_the_other():
    arrived = threading.Event()

    def read(connection):
        assert receive(connection, 5) == b"hello"
        arrived.set()
        return receive_all(connection)

    with Target(read) as target, proxy(target.address) as server:
        client = server.connect()
        client.sendall(b"hello")
        assert arrived.wait(10), "the target received nothing"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert wait_for(lambda: target.failures or target.results), "the target received no RST"
        assert target.failures and isinstance(target.failures[0], ConnectionResetError), target.results


def a_client_that_resets_while_the_proxy_connects_leaves_nothing_behind():
    listener = socket.socket()
    listener.bind((HOST, 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    with proxy(f"{HOST}:{listener.getsockname()[1]}") as server:
        before = server.descriptors()
        clients = [server.connect() for _ in range(20)]
        assert wait_for(lambda: server.descriptors() >= before + 30), "the proxy does not connect"
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert wait_for(lambda: server.descriptors() == before, 8), f"{server.descriptors()} of {before} descriptors"


def a_slow_target_takes_bounded_memory_and_loses_no_byte():
    total, rate = 256 * MIB, 16 * MIB
    hashed = {}

    def slow(connection):
        digest, got, began = hashlib.sha256(), 0, time.monotonic()
        buffer = bytearray(MIB // 4)
        while n := connection.recv_into(buffer):
            digest.update(memoryview(buffer)[:n])
            got += n
            ahead = got / rate - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)
        hashed["target"] = digest.hexdigest()
        connection.sendall(b"done")
        return got

    block = pattern(MIB)
    with Target(slow) as target, proxy(target.address, "--stats", "0.2") as server:
        before = server.resident_bytes()
        most = [before]
        with server.connect(timeout=60) as client:
            digest = hashlib.sha256()

            def feed():
                for i in range(total // MIB):
                    piece = b"%08d" % i + block[8:]
                    digest.update(piece)
                    client.sendall(piece)
                client.shutdown(socket.SHUT_WR)

            feeder = threading.Thread(target=feed, daemon=True)
            feeder.start()
            while feeder.is_alive():
                most.append(server.resident_bytes())
                time.sleep(0.1)
            assert receive_all(client) == b"done"
        assert target.results == [total] and hashed["target"] == digest.hexdigest(), "not the same bytes"
        held = max(buffered(server.errors()))
        grown = max(most) - before
        assert held < 2 * MIB and grown < 8 * MIB, f"held {held} B, grown by {grown} B"
        return f"{total // MIB} MiB at {rate // MIB} MiB/s: at most {held / 1024:.0f} KiB held, resident {before // 1024} KiB + {grown // 1024} KiB"


def cpu_of(command_pid):
    with open(f"/proc/{command_pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")




def push(port, total):
    """Sends `total` bytes to a port as fast as possible, half-closes, and waits for the answer."""
    block = pattern(MIB)
    with socket.create_connection((HOST, port), timeout=60) as client:
        for _ in range(total // MIB):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"%d" % total


def the_proxy_takes_no_more_cpu_time_than_socat():
    need("socat")
    total, rounds = 256 * MIB, 5

    def sink(connection):
        buffer, got = bytearray(MIB), 0
        while n := connection.recv_into(buffer):
            got += n
        connection.sendall(b"%d" % got)

    def through_socat(target, *options):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        command = ["socat", *options, f"TCP-LISTEN:{port},bind={HOST},reuseaddr", f"TCP:{target.address}"]
        with subprocess.Popen(command) as process:
            try:
                assert wait_for(lambda: listens(port)), "socat does not listen"
                push(port, total - MIB)
                # A zombie keeps its CPU times until it is waited for.
                assert wait_for(lambda: state(process.pid) == "Z", 10), "socat does not exit"
                return cpu_of(process.pid) / (total // MIB - 1)
            finally:
                process.kill()

    def through_us(target, server):
        before = cpu_of(server.pid)
        push(server.port, total - MIB)
        return (cpu_of(server.pid) - before) / (total // MIB - 1)

    ours, plain, large = [], [], []
    with Target(sink) as target, proxy(target.address) as server:
        for _ in range(rounds):
            ours.append(through_us(target, server))
            plain.append(through_socat(target))
            large.append(through_socat(target, "-b", "262144"))
    ratios = sorted(a / b for a, b in zip(ours, plain))
    against_large = sorted(a / b for a, b in zip(ours, large))
    middle = rounds // 2
    assert ratios[middle] <= 1.1, f"{ratios} times socat"
    return (
        f"CPU per MiB {sorted(ours)[middle] * 1e6:.0f} us, {ratios[middle]:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) of socat's, "
        f"{against_large[middle]:.2f} ({against_large[0]:.2f}-{against_large[-1]:.2f}) of socat's with buffers of 256 KiB"
    )


def listens(port):
    with open("/proc/net/tcp", encoding="ascii") as file:
        return any(f":{port:04X} " in line.split()[1] + " " and line.split()[3] == "0A" for line in list(file)[1:])


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def the_proxy_stops_gracefully_in_the_middle_of_a_transfer():
    with Target(echo) as target, proxy(target.address) as server, server.connect() as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        code, took = server.stop()
        assert code == 0, server.errors()
        return f"after {took:.2f} s"


CHECKS = [
    bytes_pass_both_ways_and_each_half_closes_separately,
    a_target_that_half_closes_first_still_gets_all_input,
    a_client_whose_target_cannot_be_reached_is_reset_and_gets_no_byte,
    with_say_why_the_client_is_told_why_its_target_cannot_be_reached,
    at_the_limit_of_connections_half_as_many_pairs_are_served_and_the_rest_wait,
    at_the_limit_of_descriptors_half_as_many_pairs_are_served_and_the_rest_wait,
    a_limit_that_leaves_no_place_for_a_target_is_refused_at_the_start,
    unix_sockets_and_ipv6_work_on_either_side,
    many_clients_at_once_get_their_own_bytes,
    a_reset_on_one_side_is_passed_to_the_other,
    an_answer_is_delivered_before_its_senders_reset_is_passed_on,
    a_reader_that_pauses_is_not_cut_unless_there_is_a_write_timeout,
    a_client_that_resets_while_the_proxy_connects_leaves_nothing_behind,
    a_slow_target_takes_bounded_memory_and_loses_no_byte,
    the_proxy_takes_no_more_cpu_time_than_socat,
    the_proxy_stops_gracefully_in_the_middle_of_a_transfer,
]

if __name__ == "__main__":
    sys.exit(main(CHECKS, __doc__, programs=["proxy"]))
