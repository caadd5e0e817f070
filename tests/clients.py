#!/usr/bin/env python3
"""Runs real clients against the example servers: nc, socat, telnet, and Python's socket and asyncio.

    cargo build --release --examples
    python3 tests/clients.py [target/release/examples [WORD OF A CHECK]...]

Skips client programs that are not installed.
"""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import os
import pickle
import re
import resource
import select
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

MIB = 1024 * 1024


def program(name):
    return os.path.join(harness.EXAMPLES, name)


def need_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        raise Skip(f"no IPv6 here: {error}") from None


def in_a_network_of_its_own(check):
    """Runs a check in a network namespace that has more addresses: of the check's thread, and of what it starts."""
    def inside():
        need("ip")
        new_net = 0x40000000
        if ctypes.CDLL(None, use_errno=True).unshare(new_net) != 0:
            raise Skip(f"no network namespace here: {os.strerror(ctypes.get_errno())}")
        for address in ("10.9.0.1/24", "10.9.0.2/24", "fd00::1/64", "fd00::2/64", "fe80::7/64"):
            extra = ["nodad"] if ":" in address else []
            if (done := run(["ip", "address", "add", address, "dev", "lo", *extra])).returncode != 0:
                raise Skip(f"no {address} here: {done.stderr.decode().strip()}")
        assert run(["ip", "link", "set", "lo", "up"]).returncode == 0
        return check()

    def alone():
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(inside).result()
    alone.__name__ = check.__name__
    return alone


def need_nc():
    """Needs the nc of OpenBSD: others have no -N and no -U."""
    need("nc")
    if b"-N" not in (done := run(["nc", "-h"])).stdout + done.stderr:
        raise Skip("this nc has no -N")


class Talk:
    """A client program with pipes to its standard input and output."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.seen = b""
        self.reader = threading.Thread(target=self._collect, daemon=True)
        self.reader.start()

    def _collect(self):
        while piece := os.read(self.process.stdout.fileno(), 65536):
            self.seen += piece

    def say(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def sees(self, text, within=5):
        return wait_for(lambda: text in self.seen, within)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(timeout=5)
        self.reader.join(5)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()


# ---- What a server prints

def the_first_line_on_stdout_is_the_address():
    told = []
    for name in ("echo", "broadcast", "framed"):
        with Server(name) as server:
            assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", server.addresses[0]), server.addresses
            server.connect().close()
            told.append(server.addresses[0])
    return ", ".join(told)


def several_addresses_are_served_at_once():
    need_ipv6()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "echo.sock")
        with Server("echo", "--stats", "60", at=(f"{HOST}:0", "[::1]:0", f"unix:{path}")) as server:
            assert server.addresses[2] == f"unix:{path}", server.addresses
            clients = [client_of(address) for address in server.addresses]
            assert all(map(echoed, clients))
            for client in clients:
                client.close()
            count = server.stop_well()
            assert count["accepted"] == 3, count
            assert not os.path.exists(path), "the file of the Unix socket was not removed"
            return ", ".join(server.addresses[:2]) + " and a Unix socket"


def client_of(address):
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(10)
        client.connect(address.removeprefix("unix:"))
        return client
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=10)


def statistics_are_printed_at_the_interval():
    with Server("echo", "--stats", "0.2") as server:
        with server.connect() as client:
            assert echoed(client, b"twelve bytes")
            time.sleep(1.1)
            lines = [line for line in server.errors().splitlines() if "/s in" in line]
        with server.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert server.sees(" 1 closed for peer_reset"), server.errors()
        count = server.stop_well()
        everything = server.errors().splitlines()
    assert 4 <= len(lines) <= 6, f"{len(lines)} lines in 1.1 s"
    form = r"\d\d:\d\d:\d\dZ 1 open, \S+/s opened, 0/s closed, \S+ B/s in, \S+ B/s out, 0 B buffered"
    assert all(re.fullmatch(form, line) for line in lines), lines
    # The rates are those since the last line: twelve bytes in a fifth of a second, then nothing.
    rate = max(float(re.search(r"([\d.]+) B/s in", line)[1]) for line in lines)
    assert 40 <= rate <= 62 and " 0 B/s in, 0 B/s out, " in lines[-1], lines
    assert max(map(len, everything)) <= 100, everything
    assert count["in"] == count["out"] == 12 and count["peer_closed"] == count["peer_reset"] == 1, count
    return lines[-1]


def statistics_of_much_traffic_fit_the_width():
    with Server("echo", "--stats", "0.1") as server, server.connect() as client:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert echoed(client, bytes(MIB // 8))
        for _ in range(300):
            server.connect().close()
        time.sleep(0.3)
        server.stop_well()
        lines = [line for line in server.errors().splitlines() if "/s in" in line]
    fast = [line for line in lines if " MiB/s in" in line]
    assert fast and max(map(len, lines)) <= 100, lines
    return fast[-1]


def listening_beyond_loopback_is_noticed():
    need_ipv6()
    notice = "other machines can reach it, and there is no authentication"
    for name, says in (("echo", "listening on"), ("udp_echo", "receiving datagrams on")):
        with tempfile.TemporaryDirectory() as directory:
            at = ("0.0.0.0:0", "[::]:0", f"{HOST}:0", "[::1]:0", f"unix:{directory}/socket")
            with Server(name, at=at, environment={"RUST_LOG": "info"}) as server:
                server.stop_well()
                lines = [line for line in server.errors().splitlines() if f"] {says} " in line]
        assert len(lines) == 5 and [notice in line for line in lines] == [True, True, False, False, False], lines
        assert all(f" {address}" in line for address, line in zip(server.addresses, lines)), lines
    return lines[0]


def help_mentions_each_option():
    common = ["--idle-timeout", "--max-connections", "--stats", "--help", "HOST:PORT", "unix:PATH", "RUST_LOG"]
    more = {"echo": [], "framed": ["--frame"], "broadcast": ["--frame", "--telnet", "--include-sender"]}
    for name, own in more.items():
        done = run([program(name), "--help"])
        text = done.stdout.decode()
        assert done.returncode == 0 and not done.stderr, f"{name}: {done}"
        missing = [word for word in common + own if word not in text]
        assert not missing, f"{name} --help does not mention {missing}"


def an_invalid_option_prints_the_accepted_values():
    wrong = {
        ("framed", "--frame", "bogus"): ["accepted", "raw", "lines", "len:u32be", "dec:", "varint", "netstring",
                                         "delim:", "fixed:"],
        ("framed", "--frame", "len:u31"): ["u31", "accepted", "u32"],
        ("broadcast", "--frame", "lines,max=many"): ["many"],
        ("broadcast", "--frame", "dec:0"): ["0"],
        ("framed", "--frame", "len"): ["the part after", "missing", "len:u32be"],
        ("udp_echo", "--max-size", "0"): ["--max-size", "1..=16777216"],
        ("echo", "--stats", "0"): ["seconds", "0.001"],
        ("echo", "--stats", "-1"): ["--stats", "seconds"],
        ("echo", "--max-connections", "-1"): ["1 to "],
        ("echo", "--max-connections", "99999999999999999999"): ["1 to "],
        ("echo", "--stats", "1e18"): ["seconds", "1000000000"],
        ("echo", "--stats", "nan"): ["seconds", "1000000000"],
        ("echo", "--idle-timeout", "inf"): ["seconds", "1000000000", "off"],
        ("ticker", "--every", "1e10"): ["seconds", "1000000000"],
        ("echo", "--idle-timeout", "soon"): ["seconds", "off"],
        ("echo", "--max-connections", "0"): ["1 to "],
    }
    for (name, *options), words in wrong.items():
        done = run([program(name), *options])
        text = done.stderr.decode()
        assert done.returncode == 2, f"{name} {options}: exit code {done.returncode}"
        missing = [word for word in words if word not in text]
        assert not missing, f"{name} {options} does not say {missing}: {text}"
        assert not done.stdout, done.stdout
    text = run([program("framed"), "--frame", "bogus"]).stderr.decode()
    return text.splitlines()[0].removeprefix("error: ")


# ---- Limits from the command line

def connections_beyond_the_limit_wait_until_others_close():
    with Server("echo", "--max-connections", "2", "--stats", "60") as server:
        clients = [server.connect() for _ in range(5)]
        for number, client in enumerate(clients):
            client.sendall(b"client %d" % number)
        at_once = 0
        for number, client in enumerate(clients):
            # As many clients as the limit allows have been answered. The others wait until one of them closes.
            time.sleep(0.1)
            served = [not_yet(other) for other in clients[number:]].count(False)
            at_once = max(at_once, served)
            assert receive(client, 8) == b"client %d" % number
            client.close()
        count = server.stop_well()
        warnings = [line for line in server.errors().splitlines() if " WARN " in line]
    assert at_once == 2, f"{at_once} at a time"
    assert count["accepted"] == 5 and count["refused"] == 0, count
    assert any("limit of 2 connections reached" in line for line in warnings), warnings
    return f"5 served, {at_once} at a time"


def not_yet(client):
    client.setblocking(False)
    try:
        client.recv(1, socket.MSG_PEEK)
        return False
    except BlockingIOError:
        return True
    finally:
        client.settimeout(10)


def a_lowered_limit_of_connections_names_what_to_raise():
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))}
    with Server("echo", "--max-connections", "1000", **few) as server:
        server.stop_well()
        warnings = [line for line in server.errors().splitlines() if " WARN " in line]
    assert len(warnings) == 1 and "from 1000 to " in warnings[0] and "`ulimit -n`" in warnings[0], warnings
    return warnings[0]


def an_idle_connection_is_closed():
    with Server("echo", "--idle-timeout", "0.3", "--stats", "60") as server:
        with server.connect() as busy, server.connect() as idle:
            began = time.monotonic()
            ended = threading.Event()

            def watch():
                with contextlib.suppress(ConnectionError):
                    receive_all(idle)
                ended.set()

            threading.Thread(target=watch, daemon=True).start()
            took = None
            while time.monotonic() < began + 1.2:
                assert echoed(busy, b"here"), "a busy connection was closed"
                if ended.is_set() and took is None:
                    took = time.monotonic() - began
                time.sleep(0.02)
        count = server.stop_well()
    assert took is not None and 0.25 < took < 0.8, f"closed after {took}"
    assert count["idle_timeout"] == 1, count
    return f"after {took:.2f} s"


def without_an_idle_timeout_no_connection_is_closed():
    with Server("echo", "--idle-timeout", "off") as server, server.connect() as client:
        time.sleep(0.5)
        assert echoed(client)


# ---- Echo

def nc_gets_its_line_back():
    need_nc()
    with Server("echo") as server:
        done = run(["nc", "-N", HOST, str(server.port)], input=b"hello\n")
    assert done.stdout == b"hello\n" and done.returncode == 0, done


def nc_gets_its_line_back_over_ipv6():
    need_nc()
    need_ipv6()
    with Server("echo", at=("[::1]:0",)) as server:
        done = run(["nc", "-6", "-N", "::1", str(server.port)], input=b"hello\n")
    assert done.stdout == b"hello\n" and done.returncode == 0, done


def over_a_unix_socket(*command, data):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "echo.sock")
        with Server("echo", at=(f"unix:{path}",)) as server:
            done = run([word.replace("PATH", path) for word in command], input=data)
            assert server.stop()[0] == 0
    assert done.stdout == data, f"{len(done.stdout)} of {len(data)} bytes: {done.stderr}"


def nc_gets_a_file_back_over_a_unix_socket():
    need_nc()
    over_a_unix_socket("nc", "-N", "-U", "PATH", data=pattern(MIB))


def socat_gets_a_file_back_over_a_unix_socket():
    need("socat")
    over_a_unix_socket("socat", "-t", "10", "-", "UNIX-CONNECT:PATH", data=pattern(MIB))


def nc_gets_a_big_file_back_after_it_finished_sending():
    need_nc()
    data = pattern(8 * MIB)
    with Server("echo", "--stats", "60") as server:
        done = run(["nc", "-N", HOST, str(server.port)], input=data, within=30)
        assert done.stdout == data, f"{len(done.stdout)} of {len(data)} bytes"
        count = server.stop_well()
    assert count["in"] == count["out"] == len(data) and count["peer_closed"] == 1, count


def socat_gets_a_big_file_back_after_it_finished_sending():
    need("socat")
    data = pattern(8 * MIB)
    for address in (HOST, "::1"):
        if address == "::1":
            need_ipv6()
        bracketed = f"[{address}]" if ":" in address else address
        with Server("echo", at=(f"{bracketed}:0",)) as server:
            family = "TCP6" if ":" in address else "TCP4"
            done = run(["socat", "-t", "20", "-", f"{family}:{bracketed}:{server.port}"], input=data, within=30)
        assert done.stdout == data, f"{address}: {len(done.stdout)} of {len(data)} bytes"


def a_slow_reader_gets_everything_after_it_finished_sending():
    """The FIN of the client reaches the server long before the client has read the answers."""
    data = pattern(4 * MIB)
    with Server("echo") as server, server.connect(receive_buffer=32 * 1024) as client:
        def send():
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        back = bytearray()
        while piece := client.recv(100_000):
            back += piece
            time.sleep(0.005)
        sender.join(10)
    assert back == data, f"{len(back)} of {len(data)} bytes"


def python_sockets_are_served_over_each_address_family():
    need_ipv6()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "echo.sock")
        with Server("echo", at=(f"{HOST}:0", "[::1]:0", f"unix:{path}")) as server:
            for address in server.addresses:
                with client_of(address) as client:
                    for message in (b"Hello, world", b"", b"\0" * 1000, bytes(range(256))):
                        client.sendall(message)
                        assert receive(client, len(message)) == message, address
                    client.shutdown(socket.SHUT_WR)
                    assert receive_all(client) == b"", address


def five_hundred_asyncio_clients_are_served_at_once():
    number, rounds = 500, 4

    async def one(port, name):
        reader, writer = await asyncio.open_connection(HOST, port)
        for turn in range(rounds):
            message = b"client %d turn %d\n" % (name, turn)
            writer.write(message)
            await writer.drain()
            assert await reader.readline() == message
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    async def everyone(port):
        await asyncio.wait_for(asyncio.gather(*(one(port, name) for name in range(number))), 30)

    with Server("echo", "--stats", "60") as server:
        began = time.monotonic()
        asyncio.run(everyone(server.port))
        took = time.monotonic() - began
        count = server.stop_well()
    assert count["accepted"] == count["peer_closed"] == number, count
    return f"{number} clients, {number * rounds} lines in {took:.2f} s"


# ---- Chat

def two_people(telnet, *options):
    """Runs two clients that each send a line. Returns what each of them printed."""
    with Server("broadcast", "--telnet", *options) as server:
        command = telnet(server.port)
        with Talk(*command) as ann, Talk(*command) as bob:
            if command[0] == "telnet":
                assert ann.sees(b"Connected") and bob.sees(b"Connected"), "no connection"
            assert in_the_room(server, 2)
            ann.say(b"hello bob\r\n")
            assert bob.sees(b"hello bob"), f"bob saw {bob.seen}"
            bob.say(b"hello ann\r\n")
            assert ann.sees(b"hello ann"), f"ann saw {ann.seen}"
            time.sleep(0.2)
            return ann.seen, bob.seen


def in_the_room(server, number):
    """Waits until the server has this many connections, by counting its socket descriptors."""
    def sockets():
        links = (os.path.join(f"/proc/{server.pid}/fd", name) for name in os.listdir(f"/proc/{server.pid}/fd"))
        return sum(os.readlink(link).startswith("socket:") for link in links if os.path.lexists(link))

    # One more for the listener.
    return wait_for(lambda: sockets() >= number + 1) and not time.sleep(0.2)


def a_chat_reaches_the_others_and_not_the_sender(telnet):
    ann, bob = two_people(telnet)
    assert b"hello bob" not in ann and b"hello ann" not in bob, f"ann saw {ann}, bob saw {bob}"


def a_chat_with_include_sender_reaches_all(telnet):
    ann, bob = two_people(telnet, "--include-sender")
    for seen in (ann, bob):
        assert seen.count(b"hello bob") == 1 and seen.count(b"hello ann") == 1, f"ann saw {ann}, bob saw {bob}"


def nc_chats_with_the_others():
    need_nc()
    a_chat_reaches_the_others_and_not_the_sender(lambda port: ["nc", HOST, str(port)])


def nc_chats_with_all():
    need_nc()
    a_chat_with_include_sender_reaches_all(lambda port: ["nc", HOST, str(port)])


def telnet_chats_with_the_others():
    need("telnet")
    a_chat_reaches_the_others_and_not_the_sender(lambda port: ["telnet", HOST, str(port)])


def socat_chats_with_all():
    need("socat")
    a_chat_with_include_sender_reaches_all(lambda port: ["socat", "-", f"TCP4:{HOST}:{port}"])


def telnet_options_and_control_characters_reach_nobody():
    with Server("broadcast", "--telnet") as server, server.connect() as ann, server.connect() as bob:
        assert in_the_room(server, 2)
        ann.sendall(b"\xff\xfd\x03\xff\xfb\x18hel\xff\xf4\xff\xfd\x06lo \x1b[2J\r\0")
        assert receive(ann, 9) == b"\xff\xfc\x03\xff\xfe\x18\xff\xfb\x06"
        assert receive(bob, 12) == b"hello ?[2J\r\n"
        bob.sendall(b"last words")
        bob.shutdown(socket.SHUT_WR)
        assert receive(ann, 12) == b"last words\r\n"


def telnet_at_a_terminal_is_not_silenced_by_an_interrupt():
    need("telnet")
    with Server("broadcast", "--telnet") as server, server.connect() as bob:
        ann, terminal = os.forkpty()
        if ann == 0:
            try:
                os.execvp("telnet", ["telnet", HOST, str(server.port)])
            finally:
                os._exit(127)
        seen = b""

        def sees(text, within=5):
            nonlocal seen
            until = time.monotonic() + within
            while text not in seen and select.select([terminal], [], [], max(0, until - time.monotonic()))[0]:
                seen += os.read(terminal, 4096)
            return text in seen

        try:
            assert sees(b"Escape character"), seen
            assert in_the_room(server, 2)
            os.write(terminal, b"hello\n")
            assert receive(bob, 7) == b"hello\r\n"
            os.write(terminal, b"\x03")  # Ctrl-C
            assert sees(b"^C"), seen

            def hears_bob():
                # Until its timing mark is answered the client discards what it reads, so one line may be lost.
                bob.sendall(b"still there?\n")
                return sees(b"still there?", within=0.1)

            assert wait_for(hears_bob), f"silenced after {seen}"
            os.write(terminal, b"yes\n")
            assert receive(bob, 5) == b"yes\r\n"
        finally:
            os.kill(ann, signal.SIGKILL)
            os.waitpid(ann, 0)
            os.close(terminal)


def what_the_end_cuts_off_is_warned_of_unless_it_is_a_line():
    with Server("framed", "--frame", "lines") as server, server.connect() as client:
        client.sendall(b"one\nlast")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"one\nlast\n"
        assert " WARN " not in server.errors()
    with Server("framed", "--frame", "len:u32be") as server, server.connect() as client:
        client.sendall(b"\0\0\0\3one\0\0\0\5half")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"\0\0\0\3one"
        says = r'inside a message, after 8 bytes of it; announced as "\x00\x00\x00\x05" at byte 7'
        assert wait_for(lambda: says in server.errors()) and " WARN " in server.errors(), server.errors()


def lines_with_and_without_carriage_return_are_equivalent():
    with Server("broadcast", "--frame", "lines") as server:
        with server.connect() as ann, server.connect() as bob, server.connect() as eve:
            assert in_the_room(server, 3)
            ann.sendall(b"from telnet\r\n")
            assert receive(bob, 12) == b"from telnet\n" and receive(eve, 12) == b"from telnet\n"
            bob.sendall(b"from nc\n")
            assert receive(ann, 8) == b"from nc\n" and receive(eve, 8) == b"from nc\n"
            # In pieces, and several lines at once.
            for piece in (b"one\r", b"\ntw", b"o\nthree\n"):
                eve.sendall(piece)
                time.sleep(0.02)
            assert receive(ann, 14) == b"one\ntwo\nthree\n" == receive(bob, 14)


def asyncio_clients_receive_all_broadcasts_in_order():
    number, messages = 30, 20

    async def one(port, name, ready):
        reader, writer = await asyncio.open_connection(HOST, port)
        await ready.wait()
        for turn in range(messages):
            writer.write(b"%d %d\n" % (name, turn))
            await writer.drain()
        heard = {}
        for _ in range((number - 1) * messages):
            sender, turn = map(int, (await reader.readline()).split())
            assert turn == heard.get(sender, -1) + 1, f"{turn} after {heard.get(sender)} of {sender}"
            heard[sender] = turn
        assert name not in heard and len(heard) == number - 1
        writer.close()

    async def everyone(server):
        ready = asyncio.Event()
        tasks = [asyncio.create_task(one(server.port, name, ready)) for name in range(number)]
        while not await asyncio.to_thread(in_the_room, server, number):
            pass
        ready.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)

    with Server("broadcast", "--frame", "lines") as server:
        asyncio.run(everyone(server))
    return f"{number} clients, {number * messages * (number - 1)} deliveries"


# ---- Messages

def the_command_in_the_documentation_of_framed_works():
    need_nc()
    with Server("framed") as server:
        done = run(["bash", "-c", rf"printf '\0\0\0\005hello' | timeout 10 nc -N {HOST} {server.port}"])
    assert done.stdout == b"\0\0\0\5hello", done


def messages_with_a_length_prefix_are_echoed():
    with Server("framed", "--frame", "len:u32be", "--stats", "60") as server, server.connect() as client:
        messages = [b"", b"a", pattern(1000), pattern(300_000), pattern(MIB)]
        stream = b"".join(struct.pack(">I", len(m)) + m for m in messages)
        sender = threading.Thread(target=client.sendall, args=(stream,), daemon=True)
        sender.start()
        for message in messages:
            (size,) = struct.unpack(">I", receive(client, 4))
            assert size == len(message) and receive(client, size) == message
        sender.join(10)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b""
        count = server.stop_well()
    assert count["messages_in"] == len(messages), count


def pickles_with_a_padded_header_are_echoed():
    """As in Python tutorials: a header of ten characters, and the client reads seven bytes at a time."""
    objects = [{1: "hey", 2: "there"}, "Welcome to the server!", list(range(1000)), None, b"\0" * 12345]
    with Server("framed", "--frame", "dec:10") as server, server.connect() as client:
        for thing in objects:
            message = pickle.dumps(thing)
            client.sendall(bytes(f"{len(message):<10}", "utf-8") + message)
        client.shutdown(socket.SHUT_WR)
        back, full = [], b""
        while piece := client.recv(7):
            full += piece
            while len(full) >= 10 and len(full) >= 10 + int(full[:10]):
                end = 10 + int(full[:10])
                back.append(pickle.loads(full[10:end]))
                full = full[end:]
    assert full == b"" and back == objects, f"{len(back)} objects of {len(objects)}, {len(full)} bytes more"


def every_framing_on_the_command_line_carries_messages():
    spoken = {
        "raw": b"anything",
        "lines": b"one\ntwo\n",
        "lines:crlf": b"one\r\ntwo\r\n",
        "len:u8": b"\3one",
        "len:u16le": b"\3\0one",
        "len:u32be,max=4MiB": b"\0\0\0\3one",
        "len:u32be,inclusive": b"\0\0\0\7one",
        "dec:4": b"3   one",
        "varint": b"\3one",
        "netstring": b"3:one,",
        "delim:\\0": b"one\0two\0",
        "delim:;,max=100": b"one;two;",
        "fixed:3": b"onetwo",
    }
    for spec, stream in spoken.items():
        with Server("framed", "--frame", spec) as server, server.connect() as client:
            for byte in stream:
                client.sendall(bytes([byte]))
            client.shutdown(socket.SHUT_WR)
            assert (back := receive_all(client)) == stream, f"{spec}: {back}"
    return f"{len(spoken)} specs"


def datagrams_are_echoed_over_each_address_family():
    path = f"/tmp/turnwheel-udp-{os.getpid()}"
    at = (f"{harness.HOST}:0", "[::1]:0", f"unix:{path}") if socket.has_ipv6 else (f"{harness.HOST}:0", f"unix:{path}")
    with Server("udp_echo", "--max-size", "2000", at=at) as server:
        for address in server.addresses:
            if address.startswith("unix:"):
                client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                client.bind(f"{path}-client")
                to = path
            else:
                host, port = address.rsplit(":", 1)
                host = host.strip("[]")
                client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
                to = (host, int(port))
            with client:
                client.settimeout(10)
                for message in (b"hello", b"", harness.pattern(2000), b"x" * 2001, b"the one before was too long"):
                    client.sendto(message, to)
                    if len(message) <= 2000:
                        assert client.recvfrom(4000)[0] == message, f"{address}: {len(message)} B did not come back"
            if os.path.exists(f"{path}-client"):
                os.unlink(f"{path}-client")
        assert server.sees("2000"), server.errors()
        code, _ = server.stop()
        assert code == 0 and not os.path.exists(path), "the server did not stop cleanly"
        return f"{len(server.addresses)} addresses"


def a_datagram_is_answered_from_the_address_that_was_asked():
    need_ipv6()
    asked = ((0, "127.0.0.2"), (1, "127.0.0.3"), (0, HOST), (1, "::1"))
    with Server("udp_echo", at=("0.0.0.0:0", "[::]:0")) as server:
        for place, address in asked:
            port = int(server.addresses[place].rsplit(":", 1)[1])
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                # A connected socket takes what comes from that address only.
                client.connect((address, port))
                client.send(b"who are you?")
                assert client.recv(100) == b"who are you?", address
        return f"{len(asked)} addresses"


@in_a_network_of_its_own
def a_datagram_to_a_second_address_is_answered_from_there():
    lo = socket.if_nametoindex("lo")
    asked = [(0, "10.9.0.2"), (1, "10.9.0.2"), (1, "fd00::1"), (1, "fd00::2"), (1, "fe80::7", 0, lo)]
    with Server("udp_echo", at=("0.0.0.0:0", "[::]:0")) as server:
        for place, address, *more in asked:
            port = int(server.addresses[place].rsplit(":", 1)[1])
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.connect((address, port, *more))
                client.send(b"who are you?")
                assert client.recv(100) == b"who are you?", address
        return f"{len(asked)} addresses"


@in_a_network_of_its_own
def an_echo_does_not_talk_to_itself_between_two_of_its_addresses():
    pings = 20
    for at in ("0.0.0.0:0", "[::]:0"):
        with Server("udp_echo", "--stats", "60", at=(at,)) as server:
            port, (source, to) = server.port, map(socket.inet_aton, ("10.9.0.2", "10.9.0.1"))
            # The system fills in the checksum and the identification.
            header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + 8 + 4, 0, 0, 64, socket.IPPROTO_UDP, 0, source, to)
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.sendto(header + struct.pack("!HHHH", port, port, 8 + 4, 0) + b"ping", ("10.9.0.1", 0))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.connect(("10.9.0.1", port))
                # Each answer comes after everything that arrived before its ping was received.
                for _ in range(pings):
                    client.send(b"ping")
                    assert client.recv(100) == b"ping"
            said = server.stop_well()
            assert (said["datagrams_out"], said.get("datagrams_own", 0)) == (pings + 1, 1), said
    return f"{pings} others were answered meanwhile"


def two_echoes_do_not_talk_without_end():
    try:
        # Only with a raw socket can the source be chosen.
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        raise Skip("no raw sockets here") from None
    rate = 50
    options = ("--rate", str(rate), "--stats", "60")
    with raw, Server("udp_echo", *options) as one, Server("udp_echo", *options) as other:
        for source in (other.port, one.port):
            # Ports, length, and no checksum.
            raw.sendto(struct.pack("!HHHH", source, one.port, 8 + 4, 0) + b"ping", (HOST, 0))
        # Not for something to happen: it is the time in which they could talk.
        time.sleep(1)
        said = one.stop_well()
        assert 1 < said["datagrams_out"] <= 3 * rate, said
        assert said["datagrams_own"] == 1, said
        return f"{said['datagrams_out']} answers"


def the_ticker_sends_ticks_and_typed_lines():
    command = [os.path.join(harness.EXAMPLES, "ticker"), f"{harness.HOST}:0", "--every", "0.05"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ticker:
        try:
            first = ticker.stdout.readline().decode()
            assert first.startswith("listening on "), first
            port = int(first.rsplit(":", 1)[1])
            clients = [socket.create_connection((harness.HOST, port), timeout=10) for _ in range(3)]
            files = [client.makefile("rb") for client in clients]
            ticks = [file.readline() for file in files]
            assert all(ticks), ticks
            ticker.stdin.write(b"typed by hand\n")
            ticker.stdin.flush()
            for file in files:
                assert any(b"typed by hand" in file.readline() for _ in range(200)), "the typed line was not sent"
            ticker.send_signal(signal.SIGINT)
            for file, client in zip(files, clients):
                file.close()
                client.close()
            assert ticker.wait(timeout=20) == 0, ticker.stderr.read()
        finally:
            ticker.kill()


CHECKS = [
    the_first_line_on_stdout_is_the_address,
    several_addresses_are_served_at_once,
    statistics_are_printed_at_the_interval,
    statistics_of_much_traffic_fit_the_width,
    listening_beyond_loopback_is_noticed,
    help_mentions_each_option,
    an_invalid_option_prints_the_accepted_values,
    connections_beyond_the_limit_wait_until_others_close,
    a_lowered_limit_of_connections_names_what_to_raise,
    an_idle_connection_is_closed,
    without_an_idle_timeout_no_connection_is_closed,
    nc_gets_its_line_back,
    nc_gets_its_line_back_over_ipv6,
    nc_gets_a_file_back_over_a_unix_socket,
    socat_gets_a_file_back_over_a_unix_socket,
    nc_gets_a_big_file_back_after_it_finished_sending,
    socat_gets_a_big_file_back_after_it_finished_sending,
    a_slow_reader_gets_everything_after_it_finished_sending,
    python_sockets_are_served_over_each_address_family,
    five_hundred_asyncio_clients_are_served_at_once,
    nc_chats_with_the_others,
    nc_chats_with_all,
    telnet_chats_with_the_others,
    telnet_options_and_control_characters_reach_nobody,
    telnet_at_a_terminal_is_not_silenced_by_an_interrupt,
    what_the_end_cuts_off_is_warned_of_unless_it_is_a_line,
    socat_chats_with_all,
    lines_with_and_without_carriage_return_are_equivalent,
    asyncio_clients_receive_all_broadcasts_in_order,
    the_command_in_the_documentation_of_framed_works,
    messages_with_a_length_prefix_are_echoed,
    pickles_with_a_padded_header_are_echoed,
    every_framing_on_the_command_line_carries_messages,
    datagrams_are_echoed_over_each_address_family,
    a_datagram_is_answered_from_the_address_that_was_asked,
    a_datagram_to_a_second_address_is_answered_from_there,
    an_echo_does_not_talk_to_itself_between_two_of_its_addresses,
    two_echoes_do_not_talk_without_end,
    the_ticker_sends_ticks_and_typed_lines,
]

if __name__ == "__main__":
    sys.exit(harness.main(CHECKS, __doc__, programs=("echo", "broadcast", "framed", "udp_echo", "ticker")))
