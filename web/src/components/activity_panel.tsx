import type { Activity } from "../api/activity.ts";
import type { ServerInfo } from "../api/client.ts";
import { monitor } from "../state/monitor.ts";
import { useStore } from "../state/store.ts";
import { formatCount, formatPercent, formatRate, formatSeconds, formatShort } from "../text/format.ts";
import { Chart } from "./chart.tsx";
import { StrategyForm } from "./strategy_form.tsx";

function ServerFacts({ info }: { info: ServerInfo }) {
  const count = (value: number | null, unit: string): string | null =>
    value === null ? null : `${formatCount(value)} ${unit}`;
  const rows: [string, string | null][] = [
    ["Model", info.model],
    ["Strategy", info.strategy?.replaceAll(",", ", ") ?? null],
    ["Experts", info.numExperts === null ? null : formatCount(info.numExperts)],
    ["Precision", info.dtype],
    info.device === null ? ["Instructions", info.instructionSet] : ["Device", info.device],
    ["Context", count(info.contextLength, "tokens")],
    ["KV cache", count(info.kvTokens, "tokens")],
    ["Version", info.version],
  ];
  return (
    <dl class="server-facts">
      {rows.map(
        ([name, value]) =>
          value !== null && (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ),
      )}
    </dl>
  );
}

function column(history: Activity[], of: (point: Activity) => number | null): (number | null)[] {
  return history.map(of);
}

function kvShare({ kvUsed, kvTotal }: Activity): number | null {
  return kvUsed === null || kvTotal === null || kvTotal === 0 ? null : kvUsed / kvTotal;
}

// Milliseconds on the axis of latencies: labels there must be short.
function formatAxisSeconds(value: number): string {
  return value === 0 ? "0" : formatSeconds(value);
}

export function ActivityPanel() {
  const { info, history } = useStore(monitor);
  const now = history.at(-1)?.time ?? 0;
  const ages = history.map(({ time }) => time - now);
  return (
    <>
      {info !== null && <ServerFacts info={info} />}
      {info !== null && info.strategy !== null && <StrategyForm />}
      <Chart
        title="Tokens/s"
        ages={ages}
        series={[
          { label: "Prompt", values: column(history, (point) => point.promptRate) },
          { label: "Generated", values: column(history, (point) => point.generationRate) },
        ]}
        format={formatRate}
        formatAxis={formatShort}
        least={10}
      />
      <Chart
        title="Requests"
        ages={ages}
        series={[
          { label: "Running", values: column(history, (point) => point.running) },
          { label: "Waiting", values: column(history, (point) => point.waiting) },
        ]}
        format={formatCount}
        formatAxis={formatShort}
        least={2}
        whole
      />
      <Chart
        title="KV cache in use"
        ages={ages}
        series={[{ label: "In use", values: column(history, kvShare) }]}
        format={(share, i) => `${formatCount(history[i]?.kvUsed ?? 0)} tokens, ${formatPercent(share)}`}
        formatAxis={formatPercent}
        least={0.001}
      />
      <Chart
        title="Time to first token"
        ages={ages}
        series={[{ label: "Mean", values: column(history, (point) => point.firstToken) }]}
        format={formatSeconds}
        formatAxis={formatAxisSeconds}
        least={0.01}
        hold
      />
      <Chart
        title="Time between tokens"
        ages={ages}
        series={[{ label: "Mean", values: column(history, (point) => point.interToken) }]}
        format={formatSeconds}
        formatAxis={formatAxisSeconds}
        least={0.01}
        hold
      />
      <p class="quiet small">Read from /metrics once a second. Times are means over that second; the latest is kept.</p>
    </>
  );
}
