// What the charts show, from two readings of /metrics.

export interface Reading {
  time: number; // seconds
  values: Map<string, number>;
}

// null: not known, e.g. a latency while no token came.
export interface Activity {
  time: number;
  promptRate: number | null; // tokens per second
  generationRate: number | null;
  running: number | null;
  waiting: number | null;
  kvUsed: number | null; // tokens
  kvTotal: number | null;
  firstToken: number | null; // seconds, mean of the interval
  interToken: number | null;
}

function gauge(reading: Reading, name: string): number | null {
  const value = reading.values.get(name);
  return value !== undefined && Number.isFinite(value) ? value : null;
}

// Of a counter. A server that was started anew counts from zero: that interval is not known.
function increase(before: Reading, after: Reading, name: string): number | null {
  const from = gauge(before, name);
  const to = gauge(after, name);
  return from === null || to === null || to < from ? null : to - from;
}

function rate(before: Reading, after: Reading, name: string): number | null {
  const amount = increase(before, after, name);
  const seconds = after.time - before.time;
  return amount === null || seconds <= 0 ? null : amount / seconds;
}

function mean(before: Reading, after: Reading, histogram: string): number | null {
  const sum = increase(before, after, `${histogram}_sum`);
  const count = increase(before, after, `${histogram}_count`);
  return sum === null || count === null || count === 0 ? null : sum / count;
}

export function activity(before: Reading | null, after: Reading): Activity {
  const since = <T>(of: (from: Reading) => T): T | null => (before === null ? null : of(before));
  return {
    time: after.time,
    promptRate: since((from) => rate(from, after, "chorale_prompt_tokens_total")),
    generationRate: since((from) => rate(from, after, "chorale_generation_tokens_total")),
    running: gauge(after, "chorale_num_requests_running"),
    waiting: gauge(after, "chorale_num_requests_waiting"),
    kvUsed: gauge(after, "chorale_kv_cache_tokens_used"),
    kvTotal: gauge(after, "chorale_kv_cache_capacity_tokens"),
    firstToken: since((from) => mean(from, after, "chorale_time_to_first_token_seconds")),
    interToken: since((from) => mean(from, after, "chorale_inter_token_latency_seconds")),
  };
}
