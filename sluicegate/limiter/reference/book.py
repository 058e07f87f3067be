"""One batch from beginning to end."""

from __future__ import annotations

from sluicegate.limiter.booking import Batch, CircuitReason, CircuitView, GiveBack, Quota, Reply
from sluicegate.limiter.reference.asking import LEASE_US, PROBE_LEASE_US, Desk
from sluicegate.limiter.reference.hearing import hear
from sluicegate.limiter.reference.scope import BLOCK_TOLD, Scope
from sluicegate.limiter.reference.settling import give_back, observe, settle
from sluicegate.limiter.stored import Stored


def book(
    stored: Stored, batch: Batch, quota: Quota, *, clock_us: int, run_id: str, me: str = "p", me_hash: int = 1
) -> tuple[Stored, Reply]:
    """Apply one batch of process `me`. `clock_us` and `run_id` are Redis's."""
    scope = Scope(stored, batch, quota, clock_us=clock_us, run_id=run_id, me=me, me_hash=me_hash)
    for unused in batch.give_backs:
        give_back(scope, unused)
    for settlement in batch.settlements:
        settle(scope, settlement)
    if batch.report is not None:
        scope.processes[me] = (scope.now_us, batch.report)
    for news in batch.news:
        hear(scope, news)
    if batch.block_us > 0 and (until_us := scope.now_us + batch.block_us) > scope.state.blocked_until_us:
        scope.set(blocked_until_us=until_us, block_code=BLOCK_TOLD)
    for seen in batch.observations:
        observe(scope, seen)
    if scope.slots:
        for booking in batch.renewals:
            scope.leases[scope.lease_id(booking)] = scope.now_us + LEASE_US
    _apply_for_probe(scope)
    desk = Desk(scope)
    for request in reversed(batch.requests):
        if desk.is_doubtful(request.booking):
            give_back(scope, GiveBack(booking=request.booking, cost=request.cost))
    answers = tuple(desk.answer(request) for request in batch.requests)
    desk.close()
    state = scope.state
    circuit = None
    if state.circuit:
        next_us = max(state.probe_at_us, state.probe_until_us)
        circuit = CircuitView(
            reason=CircuitReason(state.circuit), since_us=state.circuit_since_us, probe_at_us=next_us
        )
    requests, tokens, input_tokens, output_tokens = state.learnt
    reply = Reply(
        now_us=scope.now_us,
        generation=state.generation,
        blocked_until_us=desk.blocked_until_us,
        blocked_by=desk.blocked_by,
        void_until_us=state.blocked_until_us,
        was_lost=scope.was_lost,
        is_leasing=scope.slots > 0,
        wants_answers=state.failures > 0 or scope.ramp_awaits_answer,
        has_probe=bool(state.circuit) and _is_mine(scope) and state.probe_number == 0,
        circuit=circuit,
        safe=scope.safe,
        learnt=(requests, tokens, input_tokens, output_tokens),
        raised_us=state.raised_us,
        answers=answers,
    )
    days = scope.days.state() if any(quota.per_day) else stored.days
    return (
        Stored(
            scope=state,
            leases=scope.leases,
            days=days,
            processes=scope.processes,
            tickets=scope.tickets,
        ),
        reply,
    )


def _is_mine(scope: Scope) -> bool:
    """Whether the right to probe is this process's."""
    return scope.state.probe_holder == scope.me_hash and scope.state.probe_until_us > scope.now_us


def _apply_for_probe(scope: Scope) -> None:
    """Renew or grant the right to probe an open circuit."""
    state, batch, now_us = scope.state, scope.batch, scope.now_us
    if not state.circuit:
        return
    if _is_mine(scope) and batch.keeps_probe:
        scope.set(probe_until_us=max(state.probe_until_us, now_us + PROBE_LEASE_US))
    elif batch.wants_probe and state.probe_at_us <= now_us and state.probe_until_us <= now_us:
        scope.set(probe_holder=scope.me_hash, probe_number=0, probe_until_us=now_us + PROBE_LEASE_US)
