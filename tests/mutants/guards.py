"""The guards that the promises rest on, each with a way to take it out and the tests that must notice.

`old` stands exactly once in its file; a guard that was moved or reworded makes the check fail until its
row is mended. The tests are the quickest that know the guard.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One line that matters: what it is for, and what it becomes when it is taken out."""

    name: str
    promise: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


GUARDS = (
    Guard(
        name="an end is acked only after its publish was confirmed",
        promise="G1",
        path="streams/runtime/producer.py",
        old="await (await send(producer, record))",
        new="await send(producer, record)",
        tests=(
            "tests/integration/test_faust_transport.py::test_a_publish_returns_when_the_broker_has_the_record",
        ),
    ),
    Guard(
        name="a commit never passes an unfinished record",
        promise="G1",
        path="sluicegate/delivery/offsets.py",
        old="return pending[0] if pending else self._next",
        new="return self._next",
        tests=("tests/unit/test_offsets.py",),
    ),
    Guard(
        name="what is done above the watermark is skipped by the next owner",
        promise="G1",
        path="sluicegate/delivery/offsets.py",
        old="return offset in self._restored",
        new="return False",
        tests=("tests/unit/test_offsets.py",),
    ),
    Guard(
        name="a done-map of another base is refused",
        promise="G1",
        path="sluicegate/delivery/done_map.py",
        old="elif base_text != str(base):",
        new="elif False:",
        tests=("tests/unit/test_done_map.py",),
    ),
    Guard(
        name="forgotten work acks nothing",
        promise="G1",
        path="sluicegate/delivery/dispatcher.py",
        old="            if slot._is_live:\n                self._conclude(slot, verdict)",
        new="            self._conclude(slot, verdict)",
        tests=("tests/unit/test_dispatcher.py", "tests/unit/test_delivery_simulation.py"),
    ),
    Guard(
        name="a publish under way survives a rebalance",
        promise="G1",
        path="sluicegate/delivery/dispatcher.py",
        old="                if slot._publishing:",
        new="                if False:",
        tests=("tests/unit/test_dispatcher.py",),
    ),
    Guard(
        name="another copy than the live one is stale",
        promise="G1",
        path="sluicegate/state/take.lua",
        old="if found[4] == run or hop(mine) <= hop(live) then return {'stale'} end",
        new="",
        tests=("tests/contract/test_state_copies.py",),
    ),
    Guard(
        name="an ended event is not run again",
        promise="G1",
        path="sluicegate/state/take.lua",
        old="if not (ARGV[10] == '1' and found[8] == 'dead-letter' and is_next) then return {'stale'} end",
        new="",
        tests=("tests/contract/test_state_copies.py",),
    ),
    Guard(
        name="a replay never reopens an answered event",
        promise="G1",
        path="sluicegate/state/take.lua",
        old="found[8] == 'dead-letter' and is_next",
        new="is_next",
        tests=("tests/contract/test_state_copies.py",),
    ),
    Guard(
        name="the first claim of an end wins",
        promise="G1",
        path="sluicegate/state/claim.lua",
        old="if found[3] == 'claimed' and found[4] ~= ARGV[6] then",
        new="if false then",
        tests=("tests/contract/test_state_copies.py",),
    ),
    Guard(
        name="a zombie's switch is refused",
        promise="G1",
        path="sluicegate/state/park.lua",
        old="if found[2] ~= ARGV[2] and found[2] ~= new then return 'refused' end",
        new="",
        tests=("tests/contract/test_state_copies.py",),
    ),
    Guard(
        name="a row made after a flush is not written by who saw the one before",
        promise="G1",
        path="sluicegate/state/park.lua",
        old="if not found[3] or ARGV[4] ~= found[3] .. '@' .. run then return 'take-again' end",
        new="",
        tests=("tests/contract/test_state_copies.py",),
    ),
    Guard(
        name="a switch needs the server that Take answered from",
        promise="G1",
        path="sluicegate/state/park.lua",
        old="found[3] .. '@' .. run then",
        new="found[3] .. string.match(ARGV[4], '@.*$') then",
        tests=("tests/contract/test_state_copies.py", "tests/contract/test_protocol_order.py"),
    ),
    Guard(
        name="a copy counts only after it is confirmed",
        promise="G1",
        path="sluicegate/processing/parking.py",
        old="            await self.publisher.publish(record)\n",
        new="",
        tests=("tests/unit/test_processing_life.py",),
    ),
    Guard(
        name="the relay finishes an offset only after the record was confirmed where it goes",
        promise="G1",
        path="consumers/relay/relay.py",
        old="        if error is not None:\n            if owner.fail(",
        new="        if False:\n            if owner.fail(",
        tests=(
            "tests/integration/test_relay_process.py::test_refused_publish_stops_its_partition_until_it_is_taken",
        ),
    ),
    Guard(
        name="nothing is released before its time",
        promise="G2",
        path="sluicegate/delivery/due_queue.py",
        old="if not self._heap or self._heap[0][0] > now_ms:",
        new="if not self._heap:",
        tests=("tests/unit/test_due_queue.py",),
    ),
    Guard(
        name="a record that is not due goes on waiting",
        promise="G2",
        path="consumers/relay/plan.py",
        old="    if now_ms >= held.due_at_ms:\n",
        new="    if True:\n",
        tests=("tests/unit/test_relay_plan.py",),
    ),
    Guard(
        name="a clock is never ahead of Redis's",
        promise="G2",
        path="sluicegate/state/redis_clock.py",
        old="passed_s * (1 - _MOST_DRIFT)",
        new="passed_s * (1 + 3 * _MOST_DRIFT)",
        tests=("tests/unit/test_state_clock.py",),
    ),
    Guard(
        name="calls wait while their scope is blocked",
        promise="G3",
        path="sluicegate/limiter/lua/5_ask.lua",
        old="local base = max(now + lead, blocked)",
        new="local base = now + lead",
        tests=("tests/contract/test_limiter_agreement.py",),
    ),
    Guard(
        name="another Redis's bookings are not trusted",
        promise="G3",
        path="sluicegate/limiter/lua/1_open.lua",
        old="elseif run ~= run_id or s[LAST_NOW] - now > BACKWARDS then",
        new="elseif s[LAST_NOW] - now > BACKWARDS then",
        tests=("tests/contract/test_limiter_agreement.py", "tests/contract/test_limiter_outages.py"),
    ),
    Guard(
        name="an empty scope begins with a guard and no burst",
        promise="G3",
        path="sluicegate/limiter/lua/1_open.lua",
        old="  s[BLOCKED], s[BLOCK_CODE], dirty = now + GUARD, BLOCK_GUARD, true\n",
        new="  dirty = true\n",
        tests=("tests/contract/test_limiter_script.py",),
    ),
    Guard(
        name="a repeated batch is answered from memory",
        promise="G3",
        path="sluicegate/limiter/lua/1_open.lua",
        old="if done and unpack('<d', done) >= sequence then return string.sub(done, 9) end",
        new="",
        tests=("tests/contract/test_limiter_script.py",),
    ),
    Guard(
        name="an earlier event of the key that is open is stood behind",
        promise="G4",
        path="sluicegate/state/take.lua",
        old="    return {'behind', hold, lost, healed, tonumber(lower), lower_due}",
        new="    break",
        tests=("tests/contract/test_state_copies.py",),
    ),
    Guard(
        name="one event of a key at a time, the lowest first",
        promise="G4",
        path="sluicegate/delivery/dispatcher.py",
        old="Lanes(serial=self._serial)",
        new="Lanes(serial=False)",
        tests=("tests/unit/test_dispatcher.py",),
    ),
    Guard(
        name="input and due of a partition belong to one worker",
        promise="G4",
        path="streams/runtime/consumer_thread.py",
        old="partition_assignment_strategy=[RangePartitionAssignor]",
        new="partition_assignment_strategy=[__import__('aiokafka').coordinator.assignors.roundrobin"
        ".RoundRobinPartitionAssignor]",
        tests=("tests/integration/test_faust_transport.py",),
    ),
    Guard(
        name="a step in flight elsewhere is waited for",
        promise="G5",
        path="sluicegate/state/step_begin.lua",
        old="if holder ~= owner and tonumber(until_ms) > now then",
        new="if false then",
        tests=("tests/contract/test_state_steps.py",),
    ),
    Guard(
        name="a completed step is remembered",
        promise="G5",
        path="sluicegate/state/step_begin.lua",
        old="if found[2] == ARGV[3] then return {'memo', redis.call('HGET', steps, 'a:' .. step)} end",
        new="",
        tests=("tests/contract/test_state_steps.py",),
    ),
    Guard(
        name="nobody pays for a step of an event that ended",
        promise="G5",
        path="sluicegate/state/step_begin.lua",
        old="if redis.call('HGET', row, 'state') == 'done' then return {'ended'} end",
        new="",
        tests=("tests/contract/test_state_steps.py",),
    ),
    Guard(
        name="what is on the wire ends and is kept before the event goes anywhere",
        promise="G5",
        path="sluicegate/processing/process.py",
        old="                await steps.settled()\n",
        new="                pass\n",
        tests=("tests/unit/test_processing_handlers.py", "tests/unit/test_processing_interrupted.py"),
    ),
    Guard(
        name="an answer's bytes are capped",
        promise="G6",
        path="sluicegate/llm/client.py",
        old="        if len(content) > cap_bytes:\n            return None\n",
        new="",
        tests=("tests/integration/test_llm_over_http.py",),
    ),
    Guard(
        name="one deadline bounds a whole call",
        promise="G6",
        path="sluicegate/llm/client.py",
        old="async with asyncio.timeout(self._timeout_s):",
        new="async with asyncio.timeout(3600):",
        tests=("tests/integration/test_llm_over_http.py::test_one_deadline_bounds_the_whole_call",),
    ),
    Guard(
        name="a record that names no origin is never released",
        promise="G6",
        path="consumers/relay/plan.py",
        old="    if due is None or (partitions is not None and due.partition >= partitions):",
        new="    if due is None:",
        tests=("tests/unit/test_relay_plan.py",),
    ),
    Guard(
        name="a due time beyond the horizon is clamped",
        promise="G6",
        path="sluicegate/retry/headers.py",
        old="latest = now_ms + int(horizon_s * 1000)",
        new="latest = now_ms + 10**12",
        tests=("tests/unit/test_retry_headers.py",),
    ),
    Guard(
        name="a long block pauses the input",
        promise="G1",
        path="streams/runtime/intake.py",
        old="return view.circuit() is not None or view.blocked_for_s() > self._rules.in_place_max_s",
        new="return view.circuit() is not None",
        tests=("tests/unit/test_intake.py",),
    ),
    Guard(
        name="an open circuit pauses the input",
        promise="G1",
        path="streams/runtime/intake.py",
        old="return view.circuit() is not None or view.blocked_for_s()",
        new="return view.blocked_for_s()",
        tests=("tests/unit/test_intake.py",),
    ),
)
