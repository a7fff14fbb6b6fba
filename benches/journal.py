#!/usr/bin/env python3
"""What the journal costs: the time of a change by durability, and the start on a large journal.

    cargo build --release && python3 benches/journal.py target/release/sidestream [GIB [MIB]]

Nothing passes or fails here: it prints figures. Three servers run at once, one per durability, and
are asked in turn, so that whatever else the machine does meets all of them. The second part fills
a journal of GIB gibibytes (1 by default) with the output of commands, MIB mebibytes a session (50
by default), starts a server on it and tells how long that took and what memory it took, beside the
same on an empty directory. Everything
is made below the directory for temporary files, or TMPDIR, and removed at the end; what a sync
costs is a property of the disk under it.
"""
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 600
WORDS = "lines:read -r word rest; case $word in fill) yes 'a line of output of a usual length, so to speak' " \
    "| head -c $rest;; *) exec sleep 1000;; esac"


class Server:
    def __init__(self, program, scratch, name, flags):
        self.data = os.path.join(scratch, name)
        self.root = os.path.join(scratch, "root")
        os.makedirs(self.root, exist_ok=True)
        command = [program, "serve", "--listen", "127.0.0.1:0", "--data-dir", self.data,
                   "--root", self.root, "--agent", WORDS, "--ladder-eof", "100ms",
                   "--ladder-term", "100ms", "--log-level", "error", *flags]
        environment = {"PATH": os.environ["PATH"], "HOME": scratch}
        begun = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
            if found:
                break
        self.started_in = time.monotonic() - begun
        fields = open(f"/proc/{self.process.pid}/stat").read().rpartition(")")[2].split()
        self.worked = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        self.port = int(found[1])
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb")

    def ask(self, method, path, body=None):
        """One request on the connection that is kept: status, JSON and seconds."""
        text = json.dumps(body or {}).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" \
            f"Content-Length: {len(text)}\r\n\r\n"
        begun = time.perf_counter()
        self.socket.sendall(head.encode() + text)
        status = int(self.input.readline().split()[1])
        length = 0
        while (line := self.input.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        answer = json.loads(self.input.read(length))
        return status, answer, time.perf_counter() - begun

    def create(self):
        while "sessionId" not in (told := self.ask("POST", "/api/sessions", {"workingDir": self.root})[1]):
            time.sleep(0.1)  # So many a second are allowed.
        return told["sessionId"]

    def memory(self):
        """Resident memory now and at its peak, in MiB."""
        text = open(f"/proc/{self.process.pid}/status").read()
        return [int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024 for name in ("VmRSS", "VmHWM")]

    def stop(self):
        self.process.terminate()
        self.process.wait()


def latencies(program, scratch):
    modes = ["memory", "write", "sync"]
    servers = {mode: Server(program, scratch, mode, ["--durability", mode]) for mode in modes}
    sessions = {mode: server.create() for mode, server in servers.items()}
    taken = {mode: {"PATCH": [], "prompt": []} for mode in modes}
    for mode, server in servers.items():
        server.ask("POST", f"/api/session/{sessions[mode]}/prompt", {"command": "wait"})
    for number in range(ROUNDS):
        for mode in modes:
            server, path = servers[mode], f"/api/session/{sessions[mode]}"
            status, _, seconds = server.ask("PATCH", path, {"name": f"n{number}"})
            assert status == 200, status
            taken[mode]["PATCH"].append(seconds)
            status, answer, seconds = server.ask("POST", f"{path}/prompt", {"command": "queued"})
            assert status == 202, status
            taken[mode]["prompt"].append(seconds)
            server.ask("DELETE", f"{path}/queue/{answer['promptId']}")
    for server in servers.values():
        server.stop()
    print(f"latency of an answer that reports a change, {ROUNDS} of each, interleaved")
    print(f"{'':8}{'':8}{'median':>10}{'p99':>10}{'of memory':>12}")
    for kind in ("PATCH", "prompt"):
        base = statistics.median(taken["memory"][kind])
        for mode in modes:
            times = sorted(taken[mode][kind])
            median, p99 = statistics.median(times), times[len(times) * 99 // 100]
            print(f"{kind:8}{mode:8}{median * 1e6:8.0f}us{p99 * 1e6:8.0f}us{median / base:11.1f}x")


def large(program, scratch, gibibytes, mebibytes):
    print(f"\na start on a journal of {gibibytes} GiB, {mebibytes} MiB a session")
    flags = ["--journal-total-max", f"{2 * gibibytes}GiB", "--sessions-max", "1000"]
    empty = Server(program, scratch, "empty", flags)
    print(f"empty:   {empty.started_in * 1e3:7.0f} ms, RSS {empty.memory()[0]:6.1f} MiB")
    empty.stop()
    server = Server(program, scratch, "large", flags)
    size, wanted = 0, gibibytes << 30
    sessions = []
    while size < wanted:
        session = server.create()
        sessions.append(session)
        body = {"command": f"fill {mebibytes << 20}"}
        end = server.ask("POST", f"/api/session/{session}/prompt", body)[1]["promptId"]
        while server.ask("GET", f"/api/session/{session}/status")[1].get("promptId") == end \
                or server.ask("GET", f"/api/session/{session}/queue")[1]["queue"]:
            time.sleep(0.05)
        folder = os.path.join(server.data, "sessions", session)
        size += sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    now, peak = server.memory()
    print(f"filled:  {len(sessions)} sessions, {size / (1 << 20):.0f} MiB, RSS {now:.1f} MiB, peak {peak:.1f}")
    server.stop()
    for word in ("again:", "again:"):
        server = Server(program, scratch, "large", flags)
        now, peak = server.memory()
        print(f"{word:8} {server.started_in * 1e3:7.0f} ms, of which {server.worked * 1e3:.0f} ms on a processor, "
              f"RSS {now:.1f} MiB, peak {peak:.1f} MiB")
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port)) as stream:
            path = f"/api/session/{sessions[0]}/events?replay=all"
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            count, tail = 0, b""
            while b"event: replay-complete" not in tail:
                bytes_ = stream.recv(1 << 20)
                count, tail = count + len(bytes_), (tail + bytes_)[-(1 << 16):]
        seconds = time.monotonic() - begun
        now, peak = server.memory()
        print(f"{'':8} one session's {count >> 20} MiB replayed from disk in {seconds:.2f} s, "
              f"peak RSS then {peak:.1f} MiB")
        server.process.kill()  # The second start is one after a crash.
        server.process.wait()


def main():
    program = os.path.abspath(sys.argv[1])
    gibibytes, mebibytes = map(int, (sys.argv[2:] + ["1", "50"][len(sys.argv) - 2:])[:2])
    scratch = tempfile.mkdtemp(prefix="sidestream-journal-")
    try:
        latencies(program, scratch)
        large(program, scratch, gibibytes, mebibytes)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


main()
