"""Thousands of connections, and clients that vanish in every phase of their request."""

import random
import resource
import time

import pytest

from raw_http import Connection, post

NUM_IDLE = 5000
MAX_IDLE_BYTES = 100_000_000
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
# So that the server has to raise its own limit of open files.
FEW_FILES = ("sh", "-c", 'ulimit -Sn 1024 && exec "$@"', "sh")


def resident_bytes(server):
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


@pytest.fixture
def many_files():
    """Lets this process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NUM_IDLE + 500:
        pytest.skip(f"a process may open {hard} files here, the test needs {NUM_IDLE + 500}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_cost_little(serve, many_files, capsys):
    server = serve("--idle-timeout", 600, launcher=FEW_FILES)
    server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 8})
    before = resident_bytes(server)
    connections = [Connection(server, timeout=60) for _ in range(NUM_IDLE)]
    assert connections[-1].send(GET) and connections[-1].response().status == 200
    fresh = resident_bytes(server) - before
    # The same after each has been used once.
    for start in range(0, NUM_IDLE, 500):
        for connection in connections[start : start + 500]:
            connection.send(GET)
        for connection in connections[start : start + 500]:
            assert connection.response().status == 200
    used = resident_bytes(server) - before
    with capsys.disabled():
        print(f"\n{NUM_IDLE} idle connections: {fresh / 1e6:.1f} MB when fresh, {used / 1e6:.1f} MB when used", end=" ")
    assert fresh < MAX_IDLE_BYTES
    assert used < MAX_IDLE_BYTES
    assert server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 8})
    for connection in connections:
        connection.close()
    assert server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 8})


def gauges(server):
    metrics = server.metrics()
    return {name: metrics["chorale_" + name] for name in ("num_requests_running", "num_requests_waiting", "kv_cache_tokens_used")}


SECONDS = 2  # for all that a client held, from the moment it has vanished


def assert_let_go(server, *names):
    """Within SECONDS from now these gauges, by default all, are zero; the last one read before counts."""
    deadline = time.monotonic() + SECONDS
    while True:
        began = time.monotonic()
        held = gauges(server)
        if not any(held[name] for name in names or held):
            return held
        assert began < deadline, held
        time.sleep(0.02)


def long_request(random_, stream):
    """Some spend their time in the prefill, some in the decode."""
    prompt = [random_.randrange(300, 2000) for _ in range(random_.choice([4, 4, 1500]))]
    body = {"prompt": prompt, "max_tokens": 400, "ignore_eos": True, "stream": stream, "n": random_.choice([1, 1, 2])}
    return post("/v1/completions", body)


def vanish(connection, how):
    if how == "reset":
        connection.reset()
    elif how == "half-close":
        connection.half_close()
    else:
        connection.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_clients_that_vanish_leave_nothing(serve, seed):
    server = serve("--max-running-requests", 8, "--chunked-prefill-size", 64)
    random_ = random.Random(seed)
    clients = []
    for number in range(100):
        connection = Connection(server)
        connection.send(long_request(random_, stream=number % 2 == 0))
        clients.append((connection, ("reset", "close", "half-close")[number % 3]))
    # Of 8 that run all others wait; those vanish as well before anything was written to them.
    random_.shuffle(clients)
    for connection, how in clients:
        vanish(connection, how)
        time.sleep(random_.choice([0, 0, 0.02]))
    assert_let_go(server)
    assert server.metrics()['chorale_request_finished_total{reason="abort"}'] > 0
    assert server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 4})
    for connection, _ in clients:
        connection.close()


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_vanishes_from_the_queue_is_noticed(serve, how, stream):
    server = serve("--max-running-requests", 1)
    body = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "stream": stream}
    running, queued = Connection(server), Connection(server)
    running.send(post("/v1/completions", body))
    deadline = time.monotonic() + 60
    while gauges(server)["num_requests_running"] != 1:
        assert time.monotonic() < deadline
    queued.send(post("/v1/completions", body))
    while gauges(server)["num_requests_waiting"] != 1:
        assert time.monotonic() < deadline
    vanish(queued, how)
    held = assert_let_go(server, "num_requests_waiting")
    assert held["num_requests_running"] == 1, "the other goes on; it must not have ended first"
    vanish(running, how)
    assert_let_go(server)
    running.close()
    queued.close()


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
def test_clients_that_vanish_within_a_request_leave_nothing(serve, how):
    server = serve("--max-connections", 50)
    whole = post("/v1/completions", {"prompt": "Once", "max_tokens": 4})
    for length in range(0, len(whole), 3):
        connection = Connection(server)
        connection.send(whole[:length])
        vanish(connection, how)
        if how == "half-close":
            connection.rest()
        connection.close()
    deadline = time.monotonic() + 10
    connections = []
    while len(connections) < 50:  # the server has let go of all of them
        connection = Connection(server)
        connection.send(GET.replace(b"/health", b"/v1/models"))  # probes are answered beyond the limit, too
        if connection.response().status == 200:
            connections.append(connection)
        else:
            connection.close()
            assert time.monotonic() < deadline
    for connection in connections:
        connection.close()
    assert_let_go(server)
