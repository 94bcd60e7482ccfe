"""Two servers over one PostgreSQL, replaced one after the other as a balancer does it: no request fails."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from recserve_client import Client, ClientOptions, NewItem, interaction, item
from support.served import served
from support.two_servers import PostgresHome

pytestmark = pytest.mark.triton

#: No retries hide a failure.
ONCE = ClientOptions(tries=1, deadline_s=60)


class Balancer:
    """Sends each request to one of the servers that are in, in turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._clients: list[Client] = []
        self._under_way: dict[Client, int] = {}
        self._turns = itertools.count()

    @contextmanager
    def client(self) -> Iterator[Client]:
        with self._changed:
            assert self._changed.wait_for(lambda: self._clients, 60)
            client = self._clients[next(self._turns) % len(self._clients)]
            self._under_way[client] = self._under_way.get(client, 0) + 1
        try:
            yield client
        finally:
            with self._changed:
                self._under_way[client] -= 1
                self._changed.notify_all()

    def put_in(self, client: Client) -> None:
        assert client.ready()
        with self._changed:
            self._clients.append(client)
            self._changed.notify_all()

    def take_out(self, client: Client) -> None:
        """From then on nothing is sent there; waits for what is under way."""
        with self._changed:
            self._clients.remove(client)
            assert self._changed.wait_for(lambda: not self._under_way.get(client), 60)


class Replica:
    """One server and a client of it."""

    def __init__(self, stack: ExitStack, place: PostgresHome, balancer: Balancer) -> None:
        self._own = stack.enter_context(ExitStack())
        server = self._own.enter_context(served(place.home, settings=place.settings))
        self.client = self._own.enter_context(Client(server.grpc, ONCE))
        self._balancer = balancer
        balancer.put_in(self.client)

    def leave(self) -> None:
        """As the preStop hook and SIGTERM of a container."""
        self._balancer.take_out(self.client)
        self._own.close()


def test_no_request_fails_while_both_are_replaced(postgres_home: PostgresHome, films: list[str]) -> None:
    balancer, done = Balancer(), threading.Event()
    answered, faults = [0, 0, 0], list[BaseException]()

    def ask(number: int) -> None:
        try:
            while not done.is_set():
                at = answered[number]
                user = f"rolling {number} {at // 50}"  # who does 200 things in a while is taken for a robot
                with balancer.client() as client:
                    client.interactions.record(
                        [interaction(user, "like", films[20 * number + at % 10], event_id=f"{user}-{at}")]
                    )
                with balancer.client() as client:
                    assert client.recommend_for(user, k=5).items
                with balancer.client() as client:
                    client.items.upsert([NewItem(f"new {number}", {"title": f"film {at}"})])
                with balancer.client() as client:
                    assert client.recommend([item(films[at % 50])], k=5).items
                answered[number] += 1
        except BaseException as error:
            faults.append(error)

    with ExitStack() as stack:
        with ThreadPoolExecutor(2) as starting:
            old = list(starting.map(lambda _: Replica(stack, postgres_home, balancer), range(2)))
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(answered))]
        for thread in threads:
            thread.start()
        try:
            for replica in old:
                # Of the next version: the new one first, as maxSurge has it.
                Replica(stack, postgres_home, balancer)
                replica.leave()
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert faults == []
        with balancer.client() as client:
            for number in range(len(answered)):
                assert client.users.history(f"rolling {number} 0").read == 50
    assert min(answered) > 50
