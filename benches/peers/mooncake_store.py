"""Measures Mooncake's store, unmodified, for `perilune bench store`.

Starts a mooncake_master and an owner process whose segment holds every byte, and asks from this process, so that every
value crosses a TCP socket. Its processes may use both cores: its client polls, and would starve its own I/O thread on one
(measured: half as fast, batches a third). Reads one JSON case a line from stdin
({"op": "put", "size": 4096, "batch": 1, "seconds": 1.0, "working_set": 2048, "calls_max": 50000}),
writes one JSON sample a line to stdout. Ends, with its processes, when stdin ends.

usage: mooncake_store.py RPC_PORT METRICS_PORT
"""
import ctypes
import json
import os
import socket
import subprocess
import sys
import time

SEGMENT = 6 << 30
ARENA = 256 << 20


def setup(rpc_port, segment, local):
    from mooncake.store import MooncakeDistributedStore

    store = MooncakeDistributedStore()
    code = store.setup("127.0.0.1", "P2PHANDSHAKE", segment, local, "tcp", "", f"127.0.0.1:{rpc_port}")
    if code != 0:
        raise SystemExit(f"mooncake: setup failed with {code}")
    return store


def own(rpc_port):
    """The owner: lends the segment until its stdin ends."""
    store = setup(rpc_port, SEGMENT, 16 << 20)
    print("ready", flush=True)
    sys.stdin.read()
    store.close()
    os._exit(0)


def cpu_seconds(pid):
    # The clock of a process' processor time, as clock_getcpuclockid(3) makes it.
    return time.clock_gettime(((~pid) << 3) | 2)


def wait_for_port(port, process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"mooncake: nothing listens on {port}")


class Asker:
    def __init__(self, store, servers):
        self.store = store
        self.servers = servers
        self.round = 0
        self.stored = set()
        self.arena = (ctypes.c_char * ARENA)()
        self.at = ctypes.addressof(self.arena)
        self.next = 0
        ctypes.memmove(self.at, os.urandom(8 << 20), 8 << 20)
        if store.register_buffer(self.at, ARENA) != 0:
            raise SystemExit("mooncake: register_buffer failed")

    def slots(self, size, count):
        if self.next + size * count > ARENA:
            self.next = 0
        first = self.at + self.next
        self.next += size * count
        return [first + i * size for i in range(count)]

    def put(self, keys, size):
        slots = self.slots(size, len(keys))
        if len(keys) == 1:
            codes = [self.store.put_from(keys[0], slots[0], size)]
        else:
            codes = self.store.batch_put_from(keys, slots, [size] * len(keys))
        return all(code == 0 for code in codes)

    def get(self, keys, size):
        slots = self.slots(size, len(keys))
        if len(keys) == 1:
            lengths = [self.store.get_into(keys[0], slots[0], size)]
        else:
            lengths = self.store.batch_get_into(keys, slots, [size] * len(keys))
        return all(length == size for length in lengths)

    def must(self, done, what):
        if not done:
            raise RuntimeError(f"mooncake: {what} failed")

    def measure(self, case):
        size, batch, put = case["size"], case["batch"], case["op"] == "put"
        self.round += 1
        prefix = f"put-{self.round}-"
        read = [f"read-{size}-{i}" for i in range(case["working_set"])]
        chunks = [read[i : i + batch] for i in range(0, len(read), batch)]
        if put:
            chunks = [[f"{prefix}{i * batch + j}" for j in range(batch)] for i in range(case["calls_max"])]
        else:
            for keys in chunks:
                if not self.get(keys, size):
                    for key in keys:
                        self.put([key], size)
                    self.must(self.get(keys, size), f"storing the working set of {size} bytes")
        took = []
        clock = time.perf_counter
        before = [time.process_time(), sum(map(cpu_seconds, self.servers))]
        start = clock()
        end = start + case["seconds"]
        call = self.put if put else self.get
        calls = 0
        while calls < len(chunks) or not put:
            asked = clock()
            if asked > end and calls > 0:
                break
            self.must(call(chunks[calls % len(chunks)], size), case["op"])
            took.append(clock() - asked)
            calls += 1
        wall = clock() - start
        after = [time.process_time(), sum(map(cpu_seconds, self.servers))]
        if put:
            self.store.remove_by_regex(f"^{prefix}")
        took.sort()
        at = lambda q: took[min(len(took) - 1, int(q * len(took)))] * 1e6
        return {
            "values": calls * batch,
            "wall_s": wall,
            "p50_us": at(0.5),
            "p99_us": at(0.99),
            "client_cpu_s": after[0] - before[0],
            "server_cpu_s": after[1] - before[1],
        }


def main():
    if sys.argv[1] == "own":
        return own(int(sys.argv[2]))
    rpc, metrics = int(sys.argv[1]), int(sys.argv[2])
    os.environ.update(MC_LOG_LEVEL="ERROR", GLOG_minloglevel="2", MC_TCP_BIND_ADDRESS="127.0.0.1")
    quiet = subprocess.DEVNULL
    bin_dir = os.path.dirname(sys.executable)
    # The bench's answers go where stdout was; what the libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    processes = []
    try:
        master = [f"{bin_dir}/mooncake_master", f"--rpc_port={rpc}", f"--metrics_port={metrics}", "--enable_metric_reporting=false"]
        processes.append(subprocess.Popen(master, stdin=quiet, stdout=quiet, stderr=quiet))
        wait_for_port(rpc, processes[0])
        owner = [sys.executable, __file__, "own", str(rpc)]
        processes.append(subprocess.Popen(owner, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        # The library prints to stdout too.
        if not any(line.strip() == "ready" for line in iter(processes[1].stdout.readline, "")):
            raise SystemExit("mooncake: the owner did not start")
        asker = Asker(setup(rpc, 0, 512 << 20), [p.pid for p in processes])
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            try:
                answer = asker.measure(json.loads(line))
            except RuntimeError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
    os._exit(0)


if __name__ == "__main__":
    main()
