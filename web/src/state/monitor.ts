// Follows the server: one reading of /metrics a second, and what it says about itself.
import { activity } from "../api/activity.ts";
import type { Activity, Reading } from "../api/activity.ts";
import { ApiError, fetchMetrics, fetchServerInfo } from "../api/client.ts";
import type { ServerInfo } from "../api/client.ts";
import { parseMetrics } from "../api/prometheus.ts";
import { settings } from "./settings.ts";
import { Store } from "./store.ts";

const kInterval = 1000; // milliseconds between readings
export const kWindow = 180; // seconds that charts show
const kFailuresUntilLost = 2; // one lost packet is no lost server

export type Link = "connecting" | "up" | "lost" | "refused";

interface Monitor {
  link: Link;
  problem: string; // in words, while the link is not up
  info: ServerInfo | null;
  history: Activity[];
}

export const monitor = new Store<Monitor>({ link: "connecting", problem: "", info: null, history: [] });

let last: Reading | null = null;
let failures = 0;
let switches = 0; // of the strategy, when the server's info was read
let timer: ReturnType<typeof setTimeout> | undefined;
let polling = false;

function succeed(text: string): void {
  const reading = { time: performance.now() / 1000, values: parseMetrics(text) };
  const point = activity(last, reading);
  const from = reading.time - kWindow - 2; // a little more, so that the line reaches the edge
  last = reading;
  failures = 0;
  const history = [...monitor.get().history.filter(({ time }) => time >= from), point];
  monitor.set({ link: "up", problem: "", history });
}

function fail(error: unknown): void {
  const problem = error instanceof ApiError ? error.message : String(error);
  const status = error instanceof ApiError ? error.status : 0;
  ++failures;
  last = null; // what happens meanwhile is no rate of one second
  if (status === 401 || status === 403) monitor.set({ link: "refused", problem });
  else if (failures >= kFailuresUntilLost) monitor.set({ link: "lost", problem });
}

async function readMetrics(apiKey: string): Promise<string> {
  try {
    return await fetchMetrics(apiKey);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return ""; // no metrics, but a server
    throw error;
  }
}

async function poll(): Promise<void> {
  if (polling) return;
  polling = true;
  const { apiKey } = settings.get();
  try {
    const wasUp = monitor.get().link === "up" && failures === 0;
    const text = await readMetrics(apiKey);
    const changes = parseMetrics(text).get("chorale_strategy_switches_total") ?? 0;
    // After a loss it may be another server, and after a change of the strategy it has other facts.
    if (!wasUp || monitor.get().info === null || changes !== switches) {
      monitor.set({ info: await fetchServerInfo(apiKey) });
      switches = changes;
    }
    succeed(text);
  } catch (error) {
    fail(error);
  }
  polling = false;
  clearTimeout(timer);
  timer = setTimeout(() => void poll(), kInterval);
}

export function startMonitor(): void {
  void poll();
  // A hidden page's timers are slowed down; what it shows must be new when it is seen again.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) void poll();
  });
  let { apiKey } = settings.get();
  settings.subscribe(() => {
    if (apiKey === settings.get().apiKey) return;
    apiKey = settings.get().apiKey;
    void poll();
  });
}
