"""A provider simulator: a real HTTP server that limits, delays, fails and keeps a record of every call.

It runs as its own process (`sluicegate provider`) and prints one JSON line on stdout when it listens:
`{"address": "http://127.0.0.1:8089", "base_url": "http://127.0.0.1:8089/v1", "port": 8089, "pid": 4711}`.

- `POST /v1/chat/completions`: the OpenAI chat format; charges max(max_tokens, ceil(prompt bytes / 4)).
- `POST /v1/messages`: the Anthropic format; charges the prompt when admitted, the output when it is given,
  to `tokens` and, where those are limited, to `input_tokens` and `output_tokens`. No call is admitted while
  a meter of its format is in debt.
- `GET /healthz`: 200 while it listens.
- `GET /stats`: everything below. `?after=SEQUENCE`: only the calls numbered above it. `?summary=1`: without
  `calls`, for live views.
- `POST /faults`: one fault (see `faults.py`); 200 with what was understood, 400 with what was not.
- `DELETE /faults`: ends every fault and cut now; limits stay as they are.

Four models enforce the limits, requests and tokens alike: `bucket` (fills all the time, holds `burst_s` of
the rate), `slice` (each calendar second has its share), `fixed` (windows of `window_s` that begin at
multiples of it on the clock below, each counted from zero) and `log` (in no `window_s` seconds more than its
limit). A window's limit is its share of a minute's, in whole requests and tokens. A call with more tokens
than a minute (bucket, slice) or a window (fixed, log) admits gets 429 'Request too large', with no time to
wait.

Above `concurrency` calls in flight (none is set at first) a call gets 429 with a short wait in the OpenAI
format and 529 in Anthropic's, and charges nothing.

What a refused call is told to wait is until the bucket holds it, its second comes, the window ends, or
enough has left the log. In the rate-limit headers `limit` is always that of a minute; `remaining` is what is
left of the minute (bucket, slice) or the window (fixed, log); `reset` is when nothing is used any more: the
bucket full, the window's end, the newest charge gone from the log.

`GET /stats` answers one JSON object. Times are seconds since the Unix epoch with a fraction, on a clock that
never steps back; rates are per minute; tokens are the charge to the quota unless named otherwise.

- `now`, `started_at`: times.
- `configuration`: what holds now: `enforcement`, `burst_s`, `window_s`, `requests_per_minute`,
  `burst_requests`, the same of `tokens`, `input_tokens` and `output_tokens` (null: unlimited), `concurrency`
  (null: unlimited), `latency_ms`, `jitter_ms`, `seed`.
- `timeline`: the quota's history as periods that touch: `from`, `to` (null: still running), `enforcement`,
  `window_s`, the rates and bursts as above, `cut` (true: nothing was admitted), `retry_after_s` (of a cut,
  else null).
- `faults`: every fault ever asked for: `at`, `kind`, `fault` (the object as sent), `struck` (calls),
  `active`.
- `counts`: `calls`, `admitted`, `refused` (by the quota, a cut, or for too many at once), `answered`
  (admitted, and the whole answer was written), `by_status`: `{"200": n}`.
- `in_flight`: calls at work now; `most_in_flight`: ever, those that were refused included.
- `strangers`: how much of each limited dimension strangers took; no other figure counts it.
- `levels`: each limited dimension's `available` and `capacity`: what may go at once, now and at most (of a
  bucket, a second or a window).
- `last_10_s`: `admitted`, `refused`, `tokens`.
- `ideal`: `started_at` (first admitted call), `last_completed_at` (of admitted ones), `requests`, `tokens`
  (admitted), `makespan_s`, `ideal_s` (what this timeline, cuts included, needs for these calls without
  strangers; answers that are charged when they are given may outrun it by what is in flight); null before
  the first.
- `calls_dropped`: calls that are no longer kept (the newest million or so are).
- `calls`: one object a call, by `sequence` (from 0): `received_at` (when the quota was asked), `completed_at`
  (the last byte was handed to the network; null while running and when the connection broke), `request_id`
  (X-Client-Request-Id as received, else ""), `identity`, `step`, `attempt` (its parts; null when it is not
  `identity/step/attempt`), `format` ("openai" or "anthropic"), `model`, `admitted`, `status` (null: none was
  sent), `fault` (the kind that struck it, else null), `tokens_charged`, `prompt_tokens`, `completion_tokens`.

Calls that were refused with 429, and calls that an injected status or redirect struck, charge nothing.
`ideal.py` reads `timeline` and computes what a quota admits in a span of time and needs for a set of calls.
"""
