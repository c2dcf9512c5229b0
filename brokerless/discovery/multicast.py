"""The library ``zeroconf``, reduced to publishing one text and hearing those of others.

Of its service browser we make no use: that remembers a pending query for each instance anybody announces,
without bound, and wants host addresses, of which there are none here. All we need is in TXT records, which
come with each announcement and with each answer to a query for the service.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from typing import TYPE_CHECKING

from zeroconf import (  # type: ignore[attr-defined]  # the records are there for use, but in no __all__
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSText,
    Error,
    RecordUpdateListener,
    current_time_millis,
)
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from brokerless.interfaces import interface_numbers, is_ours, multicast_interfaces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from zeroconf import DNSRecord, RecordUpdate, Zeroconf  # type: ignore[attr-defined]  # as above

SERVICE_TYPE = "_dittobus._tcp.local."

TTL_S = 1_200
"""How long others may remember us if we die without a goodbye. The library takes no less than 1,125 s."""

FIRST_QUERY_DELAY_S = (0.02, 0.12)
"""RFC 6762 section 5.2: a random delay, so that machines switched on together do not ask together."""

QUERY_INTERVAL_MIN_S = 1.0
"""RFC 6762 section 5.2: at least a second, then at least twice as long each time."""

QUERY_INTERVAL_MAX_S = TTL_S / 4
"""An answer is asked for again after half its life; so at least one query falls into what is left of it."""

KNOWN_ANSWERS_MAX = 512
"""Names that a query lists as known; the library puts no more than 16 packets of a query together again."""

_SERVES_SHARE = 0.5
"""Of the time since we asked last: a query of somebody else that is no older serves us as well (RFC 6762
section 7.3). With more than half of it, our own last one might be taken for that."""

_HISTORY_MS = 999
"""How old a query may be at most for the library to say that it serves."""

_TYPE_PTR = 12
_CLASS_IN = 1
_FLAGS_QUERY = 0


class MulticastDns(RecordUpdateListener):
    """Publishes one text under random names, and reports what others publish for the same service.

    ``heard(name, text)`` is called for each text that is new, ``lost(name, text)`` for each that is withdrawn
    or expires; ``known`` are the names that need not be told again. To make one is to open the sockets.
    """

    def __init__(
        self,
        interfaces: Sequence[str] | None,
        heard: Callable[[str, bytes], None],
        lost: Callable[[str, bytes], None],
        known: Iterable[str],
    ) -> None:
        super().__init__()
        self._heard = heard
        self._lost = lost
        self._known = known
        self._service: AsyncServiceInfo | None = None
        self._sending: set[asyncio.Future[object]] = set()
        self._query_timer: asyncio.TimerHandle | None = None
        self._query_interval_s = QUERY_INTERVAL_MIN_S
        self._asked_at_ms: float | None = None
        self._interfaces = interfaces
        self._in_use = self._usable_interfaces()
        self._zeroconf = AsyncZeroconf(list(self._in_use))
        # Before the first packet can come: what is in the library's cache already is never told of again.
        self._zeroconf.zeroconf.async_add_listener(self, None)

    async def start(self) -> None:
        """Begin to listen and to ask. Raises ``RuntimeError`` if there is nothing to speak on."""
        try:
            await self._zeroconf.zeroconf.async_wait_for_start()
        except Error as error:
            raise RuntimeError("the sockets could not be opened") from error
        if not self._zeroconf.zeroconf.engine.senders:
            raise RuntimeError("no interface takes multicast")
        self._ask_in(random.uniform(*FIRST_QUERY_DELAY_S))

    async def publish(self, text: bytes | None) -> None:
        """Announce a service with ``text``, or none, in the place of the one before."""
        self._stop_sending()  # what the last one still had to say would bring it back after its goodbye
        old, self._service = self._service, None
        if text is not None:
            label = secrets.token_hex(8)
            self._service = AsyncServiceInfo(
                SERVICE_TYPE,
                f"{label}.{SERVICE_TYPE}",
                port=0,
                properties=text,
                server=f"{label}.local.",
                host_ttl=TTL_S,
                other_ttl=TTL_S,
            )
            # Random names need no probing, which would take 0.7 s.
            self._send(
                await self._zeroconf.async_register_service(self._service, cooperating_responders=True)
            )
        if old is not None:
            self._send(await self._zeroconf.async_unregister_service(old))
            self._take_back_answers(old)

    async def update_interfaces(self) -> None:
        """Speak and listen on interfaces that have come, and no longer on those that have gone.

        One in the place of another, with the same address, is the same to the library, but nobody listens on
        it: so first those that stay are left, then all are there. Who is on a new network has not been asked
        yet, so queries begin anew.
        """
        before, self._in_use = self._in_use, self._usable_interfaces()
        stay = [one for one, number in self._in_use.items() if before.get(one) == number]
        for interfaces in (stay, list(self._in_use)):
            await self._zeroconf.async_update_interfaces(interfaces)
        if self._query_timer is not None:
            self._query_timer.cancel()
            self._query_interval_s = QUERY_INTERVAL_MIN_S
            self._ask_in(random.uniform(*FIRST_QUERY_DELAY_S))

    async def close(self) -> None:
        """Say goodbye and close the sockets. Does nothing the second time."""
        if self._query_timer is not None:
            self._query_timer.cancel()
        cancelled = self._stop_sending()
        await asyncio.gather(*cancelled, return_exceptions=True)
        # Once. The library would say it three times in 0.25 s, for which nobody who closes wants to wait; if
        # it is lost, somebody may dial in vain.
        goodbye = self._zeroconf.zeroconf.generate_unregister_all_services()
        if goodbye is not None:
            self._zeroconf.zeroconf.async_send(goodbye)
        await self._zeroconf.async_close()

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called by the library for whatever it heard, before it goes into its cache."""
        for update in records:
            record = update.new
            if not isinstance(record, DNSText) or not record.key.endswith(SERVICE_TYPE):
                continue
            if record.is_expired(now):
                self._lost(record.key, record.text)
                self._ask_soon()
            elif update.old is None:  # otherwise it is known, with this very text
                self._heard(record.key, record.text)

    def _usable_interfaces(self) -> dict[str | int, int | None]:
        """What the library is to be told, each with the number of its interface."""
        usable: list[str | int]
        if self._interfaces is None:
            usable = multicast_interfaces()  # the library's own choice leaves IPv6 out
        else:
            # The library fails altogether, and leaves sockets open, where one of several is not there.
            usable = [interface for interface in self._interfaces if is_ours(interface)]
            if not usable:
                raise OSError(f"none of {', '.join(self._interfaces)} is an address of this host")
        numbers = interface_numbers()
        return {one: one if isinstance(one, int) else numbers.get(one) for one in usable}

    def _ask_in(self, delay_s: float) -> None:
        self._query_timer = asyncio.get_running_loop().call_later(delay_s, self._ask)

    def _ask_soon(self) -> None:
        """Anybody may have said this goodbye: whoever is there answers a query. Not more often than ever."""
        loop = asyncio.get_running_loop()
        if self._query_timer is not None and self._query_timer.when() > loop.time() + QUERY_INTERVAL_MIN_S:
            self._query_timer.cancel()
            self._ask_in(QUERY_INTERVAL_MIN_S + random.uniform(*FIRST_QUERY_DELAY_S))

    def _ask(self) -> None:
        now = current_time_millis()
        # Not with the bit that asks for answers by unicast: where several processes of a host listen on the
        # port, the kernel gives a unicast answer to any one of them.
        question = DNSQuestion(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN)
        known = list(self._known_answers(now))
        if not self._was_asked(question, known, now):
            query = DNSOutgoing(_FLAGS_QUERY)
            query.add_question(question)
            for answer in known:
                query.add_answer_at_time(answer, now)
            self._zeroconf.zeroconf.async_send(query)
        self._asked_at_ms = now
        self._ask_in(self._query_interval_s)
        self._query_interval_s = min(2 * self._query_interval_s, QUERY_INTERVAL_MAX_S)

    def _known_answers(self, now_ms: float) -> Iterator[DNSRecord]:
        """What nobody need answer."""
        if self._service is not None:  # or we would, and the next who asks had to wait for it
            yield self._service.dns_pointer()
        for name in itertools.islice(self._known, KNOWN_ANSWERS_MAX):
            pointer = DNSPointer(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN, TTL_S, name)
            heard = self._zeroconf.zeroconf.cache.async_get_unique(pointer)
            if heard is not None and heard.get_remaining_ttl(now_ms) > heard.ttl / 2:  # RFC 6762 section 7.1
                yield heard

    def _was_asked(self, question: DNSQuestion, known: list[DNSRecord], now_ms: float) -> bool:
        """Whether somebody has lately put the same question, and left out no answer that we miss.

        In a mesh of fifty that is all but one of the queries: each costs every node a packet to look at.
        """
        history = self._zeroconf.zeroconf.question_history
        age_max_ms = (
            _HISTORY_MS if self._asked_at_ms is None else (now_ms - self._asked_at_ms) * _SERVES_SHARE
        )
        return history.suppresses(question, now_ms + _HISTORY_MS - age_max_ms, set(known))

    def _send(self, sending: Awaitable[object]) -> None:
        task = asyncio.ensure_future(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _take_back_answers(self, service: AsyncServiceInfo) -> None:
        """Drop what others asked for and is held back for up to a second: it would come after the goodbye."""
        for waiting in (self._zeroconf.zeroconf.out_queue, self._zeroconf.zeroconf.out_delay_queue):
            for group in waiting.queue:
                for record in (service.dns_pointer(), service.dns_service(), service.dns_text()):
                    group.answers.pop(record, None)

    def _stop_sending(self) -> list[asyncio.Future[object]]:
        for task in self._sending:
            task.cancel()
        return list(self._sending)
