"""The order in which calls wait: tenants by weighted share of tokens, within a tenant by deadline, then arrival.

Imports `service`. Pure. The rules that must stay true: while two tenants both wait, what they are served is in
proportion to their weights; nobody overtakes within one tenant and one limit; nothing is kept of a tenant that is even,
and of tenants without a call here no more than a bounded number.

Each tenant has a virtual time, which grows by served tokens divided by its weight; the one that is furthest behind is
next (start-time fair queueing, https://doi.org/10.1109/90.649569, read 2026-11-22). Of those that are even it is the
one whose call is the earliest, never the one whose name is: ever new names would keep another waiting. A tenant that
comes back after idling starts at the present virtual time: idling earns nothing.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping

from ..service import Ticket

__all__ = ["NO_DEADLINE_S", "FairQueue", "due_of"]

NO_DEADLINE_S = 600.0  # a call without a deadline is ordered as if it had ten minutes from arrival, and waits no longer
MOST_AHEAD = 1024  # tenants without a call here that are remembered for what they used: those furthest ahead
FEW_PLACES = 64  # in the line that nobody stands at any more; with more, and twice the tenants, it is made anew
LEAST_COST = 1.0  # of a call that nobody could estimate


def due_of(ticket: Ticket) -> float:
    """By when a ticket must be admitted."""
    return ticket.deadline if ticket.deadline < math.inf else ticket.arrived + NO_DEADLINE_S


class _Tenant:
    __slots__ = ("first", "lanes", "name", "queued", "served", "weight")

    def __init__(self, name: str, weight: float, served: float) -> None:
        self.name = name
        self.weight = weight
        self.served = served  # virtual time
        self.first = 0  # the number of the call that it stands in the line with
        self.queued: dict[Ticket, None] = {}
        self.lanes: dict[str, list[tuple[float, int, int, Ticket]]] = {}  # by model: one's limit does not hold another


_Place = tuple[float, int, int, _Tenant]


def _is_present(place: _Place) -> bool:
    served, first, _, tenant = place
    return bool(tenant.queued) and served == tenant.served and first == tenant.first


class FairQueue:
    """Tickets that wait."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._tenants: dict[str, _Tenant] = {}
        self._look_at = MOST_AHEAD  # how many are known when it is looked who may be forgotten
        self._line: list[_Place] = []  # a heap of those with somebody waiting, the next one first
        self._places = 0  # counted, so that tenants are never compared
        self._now = 0.0  # virtual time: where the last one that was served stood
        self._size = 0
        self._patient: OrderedDict[Ticket, None] = OrderedDict()  # without a deadline, as they arrived
        self.tokens = 0  # that the tickets here are thought to use

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Ticket]:
        for tenant in self._tenants.values():
            yield from tenant.queued

    def __contains__(self, ticket: Ticket) -> bool:
        tenant = self._tenants.get(ticket.tenant)
        return tenant is not None and ticket in tenant.queued

    def push(self, ticket: Ticket) -> None:
        """Let it wait."""
        tenant = self._tenants.get(ticket.tenant)
        if tenant is None:
            if len(self._tenants) >= self._look_at:
                self._forget_some()
            weight = self._weights.get(ticket.tenant, 1.0)
            tenant = self._tenants[ticket.tenant] = _Tenant(ticket.tenant, weight, self._now)
        elif not tenant.queued:
            tenant.served = max(tenant.served, self._now)
        if not tenant.queued or ticket.number < tenant.first:
            self._stand(tenant, ticket.number)
        tenant.queued[ticket] = None
        lane = tenant.lanes.setdefault(ticket.model, [])
        heapq.heappush(lane, (due_of(ticket), ticket.number, ticket.attempt, ticket))
        if ticket.deadline == math.inf:
            self._patient[ticket] = None
        self._size += 1
        self.tokens += ticket.tokens

    def _forget_some(self) -> None:
        """Of tenants without a call here those that are even by now, and of the others those that are least ahead."""
        ahead = [one for one in self._tenants.values() if not one.queued and one.served > self._now]
        ahead.sort(key=lambda one: (-one.served, one.name))
        kept = [*(one for one in self._tenants.values() if one.queued), *ahead[:MOST_AHEAD]]
        self._tenants = {one.name: one for one in kept}
        self._look_at = len(kept) + MOST_AHEAD

    def peek(self, held: Container[str] = ()) -> Ticket | None:
        """The next one, leaving out the models that are held."""
        line = self._line
        aside: list[_Place] = []
        found: Ticket | None = None
        while line and found is None:
            if not _is_present(line[0]):  # it has moved since, and stands elsewhere
                heapq.heappop(line)
                continue
            tenant = line[0][3]
            first = self._first(tenant, held)
            if first is None:
                aside.append(heapq.heappop(line))
            else:
                found = first[3]
        for entry in aside:
            heapq.heappush(line, entry)
        return found

    def _stand(self, tenant: _Tenant, first: int) -> None:
        """Take the place in the line that its virtual time and its call of that number give it. Places that it had
        before are passed over."""
        tenant.first = first
        self._places += 1
        heapq.heappush(self._line, (tenant.served, first, self._places, tenant))
        if len(self._line) > FEW_PLACES + 2 * len(self._tenants):
            self._line = [place for place in self._line if _is_present(place)]
            heapq.heapify(self._line)

    def _first(self, tenant: _Tenant, held: Container[str]) -> tuple[float, int, int, Ticket] | None:
        best: tuple[float, int, int, Ticket] | None = None
        for model, lane in list(tenant.lanes.items()):
            while lane and lane[0][3] not in tenant.queued:  # taken out since
                heapq.heappop(lane)
            if not lane:
                del tenant.lanes[model]
            elif model not in held and (best is None or lane[0][:3] < best[:3]):
                best = lane[0]
        return best

    def serve(self, ticket: Ticket) -> None:
        """It goes: take it out and charge its tenant."""
        tenant = self._tenants[ticket.tenant]
        self._now = max(self._now, tenant.served)
        tenant.served += max(LEAST_COST, ticket.tokens) / tenant.weight
        ticket.account = tenant
        self._take_out(tenant, ticket)
        if tenant.queued:
            self._stand(tenant, next(iter(tenant.queued)).number)

    def remove(self, ticket: Ticket) -> None:
        """It leaves unserved."""
        tenant = self._tenants[ticket.tenant]
        self._take_out(tenant, ticket)
        if tenant.queued and ticket.number == tenant.first:
            self._stand(tenant, next(iter(tenant.queued)).number)

    def _take_out(self, tenant: _Tenant, ticket: Ticket) -> None:
        del tenant.queued[ticket]
        self._patient.pop(ticket, None)
        self._size -= 1
        self.tokens -= ticket.tokens
        self._tidy(tenant)

    def settle(self, ticket: Ticket, used: float) -> None:
        """A served ticket used another number of tokens than was thought: its tenant's share is corrected, where what
        it was charged still counts."""
        tenant = self._tenants.get(ticket.tenant)
        if tenant is not None and tenant is ticket.account:
            tenant.served += (max(LEAST_COST, used) - max(LEAST_COST, ticket.tokens)) / tenant.weight
            if tenant.queued and used != ticket.tokens:
                self._stand(tenant, tenant.first)
            self._tidy(tenant)

    def _tidy(self, tenant: _Tenant) -> None:
        # Idle and not ahead of the others: coming back it would start at the present time anyway. Names of tenants
        # may be as many as there are users, so nothing is kept of one that is even. When nobody waits, all are.
        if self._size == 0:
            self._now = 0.0
            self._tenants.clear()
            self._line.clear()
        elif not tenant.queued and tenant.served <= self._now:
            del self._tenants[tenant.name]

    def before(self, ticket: Ticket, models: Container[str] | None) -> tuple[int, float]:
        """How many calls and tokens go before this one, were it here now: all that are due earlier of its own tenant,
        and of the others as much as their weights give them meanwhile. `models` are those that share its limit (None:
        all)."""
        mine = (due_of(ticket), ticket.number, ticket.attempt)
        weight = self._weights.get(ticket.tenant, 1.0)
        calls, tokens = 0, 0.0
        own = self._tenants.get(ticket.tenant)
        for other in own.queued if own is not None else ():
            is_before = (due_of(other), other.number, other.attempt) < mine
            if is_before and (models is None or other.model in models):
                calls += 1
                tokens += other.tokens
        share = max(tokens, LEAST_COST * calls)
        for tenant in self._tenants.values():
            if tenant is own or not tenant.queued or share == 0.0:
                continue
            theirs = [other for other in tenant.queued if models is None or other.model in models]
            sum_of = sum(max(LEAST_COST, other.tokens) for other in theirs)
            part = min(1.0, share * tenant.weight / weight / sum_of) if sum_of else 0.0
            calls += int(part * len(theirs))
            tokens += part * sum(other.tokens for other in theirs)
        return calls, tokens

    def longest_patient(self) -> Ticket | None:
        """Of those without a deadline the one that came first: others are ended by their own."""
        return next(iter(self._patient), None)

    def by_tenant(self) -> dict[str, int]:
        """How many wait, by tenant."""
        return {name: len(tenant.queued) for name, tenant in sorted(self._tenants.items()) if tenant.queued}
