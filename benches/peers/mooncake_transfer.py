"""Measures Mooncake's transfer engine over RDMA, unmodified, for `perilune bench transfer --protocol rdma`.

Starts a process that lends memory on one device and asks from this one on another. Reads one JSON case a line from stdin
({"op": "write", "size": 65536, "in_flight": 16, "seconds": 0.5}), writes one JSON answer a line to stdout: bytes a second, and
microseconds of half the calls. A call is a batch of `in_flight` pieces: from Python its engine is only asked in batches, so that one
batch ends before the next begins. Ends, with its process, when stdin ends.

usage: mooncake_transfer.py DEVICE PEER_DEVICE MIB
"""
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import time


def engine(device, size):
    from mooncake.engine import TransferEngine

    made = TransferEngine()
    code = made.initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", device)
    if code != 0:
        raise SystemExit(f"mooncake: initialize failed with {code}")
    # Its own allocator takes gigabytes at once.
    memory = mmap.mmap(-1, size)
    memory.write(os.urandom(1 << 20) * (size >> 20))
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    code = made.register_memory(at, size)
    if code != 0:
        raise SystemExit(f"mooncake: register_memory failed with {code}")
    return made, memory, at


def lend(device, size):
    made, memory, at = engine(device, size)
    print(made.get_rpc_port(), flush=True)
    sys.stdin.read()
    os._exit(0)


class Asker:
    def __init__(self, device, peer, size):
        self.engine, self.memory, self.at = engine(device, size)
        self.peer = peer
        self.there = self.engine.get_first_buffer_address(peer)
        if not self.there:
            raise SystemExit("mooncake: the other side tells no buffer")

    def call(self, op, size, in_flight):
        here = [self.at + i * size for i in range(in_flight)]
        there = [self.there + i * size for i in range(in_flight)]
        move = self.engine.batch_transfer_sync_write if op == "write" else self.engine.batch_transfer_sync_read
        code = move(self.peer, here, there, [size] * in_flight)
        if code != 0:
            raise RuntimeError(f"mooncake: a batch of {op}s failed with {code}")

    def measure(self, op, size, in_flight, seconds):
        times = []
        started = time.perf_counter()
        while time.perf_counter() < started + seconds or not times:
            asked = time.perf_counter()
            self.call(op, size, in_flight)
            times.append(time.perf_counter() - asked)
        wall = time.perf_counter() - started
        self.verify(size, in_flight)
        return {"bytes_per_s": len(times) * in_flight * size / wall, "p50_us": statistics.median(times) * 1e6}

    def verify(self, size, in_flight):
        wrote = os.urandom(size * in_flight)
        self.memory[: len(wrote)] = wrote
        self.call("write", size, in_flight)
        self.memory[: len(wrote)] = bytes(len(wrote))
        self.call("read", size, in_flight)
        if self.memory[: len(wrote)] != wrote:
            raise RuntimeError("mooncake: what was read back is not what was written")


def main():
    if sys.argv[1] == "lend":
        return lend(sys.argv[2], int(sys.argv[3]) << 20)
    device, peer_device, mib = sys.argv[1:]
    lender = subprocess.Popen(
        [sys.executable, __file__, "lend", peer_device, mib], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    port = lender.stdout.readline().strip()
    if not port:
        raise SystemExit("mooncake: the lending process ended")
    asker = Asker(device, f"127.0.0.1:{port}", int(mib) << 20)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            print(json.dumps(asker.measure(**json.loads(line))), flush=True)
        except RuntimeError as error:
            print(json.dumps({"error": str(error)}), flush=True)
    lender.stdin.close()
    lender.wait()
    os._exit(0)


main()
