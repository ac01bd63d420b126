// One chart with its legend, which shows the latest values, or those under the pointer.
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { kWindow } from "../state/monitor.ts";
import { theme } from "../state/theme.ts";

export interface Series {
  label: string;
  values: (number | null)[];
}

interface ChartProps {
  title: string;
  ages: number[]; // seconds before the latest reading, negative, ascending
  series: Series[];
  format: (value: number, index: number) => string;
  formatAxis: (value: number) => string;
  least: number; // the axis reaches at least to here
  whole?: boolean; // marks at whole numbers only
  hold?: boolean; // the legend keeps the latest known value
}

const kHeight = 104;

function color(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A value between two unknown ones has no line to be seen by.
function lonePoints(u: uPlot, seriesIndex: number): number[] {
  const values = u.data[seriesIndex] ?? [];
  const out: number[] = [];
  for (let i = 0; i < values.length; ++i) {
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) out.push(i);
  }
  return out;
}

function ageLabel(age: number): string {
  return age === 0 ? "now" : `${-age / 60} min`;
}

interface PlotOptions extends Pick<ChartProps, "formatAxis" | "least"> {
  whole: boolean;
  labels: string[];
  width: number;
  onPoint: (index: number | null) => void;
}

function plotOptions({ formatAxis, least, whole, labels, width, onPoint }: PlotOptions): uPlot.Options {
  const axis = {
    stroke: () => color("--muted"),
    font: "11px system-ui, sans-serif",
    ticks: { show: false },
  };
  const line = (label: string, i: number): uPlot.Series => ({
    label,
    stroke: () => color(`--series-${i + 1}`),
    width: 1.5,
    points: { show: true, size: 4, filter: lonePoints, fill: () => color(`--series-${i + 1}`) },
  });
  return {
    width,
    height: kHeight,
    padding: [6, 16, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 5 } },
    scales: {
      x: { time: false, range: [-kWindow, 0] },
      // A line at zero must not be cut by the edge.
      y: {
        range: (_, _min, max) => {
          const top = Math.max(least, (max ?? 0) * 1.15);
          return [-0.03 * top, top];
        },
      },
    },
    axes: [
      {
        ...axis,
        size: 24,
        gap: 6,
        grid: { show: false },
        splits: () => [-180, -120, -60, 0],
        values: (_, splits) => splits.map(ageLabel),
      },
      {
        ...axis,
        size: 52,
        gap: 8,
        space: 26,
        ...(whole ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] } : {}),
        grid: { stroke: () => color("--grid"), width: 1 },
        values: (_, splits) => splits.map(formatAxis),
      },
    ],
    series: [{}, ...labels.map(line)],
    hooks: { setCursor: [(u) => onPoint(u.cursor.idx ?? null)] },
  };
}

export function Chart({ title, ages, series, format, formatAxis, least, whole = false, hold = false }: ChartProps) {
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [pointed, setPointed] = useState<number | null>(null);
  const data: uPlot.AlignedData = [ages, ...series.map(({ values }) => values)];

  useLayoutEffect(() => {
    const element = holder.current;
    if (element === null) return undefined;
    const labels = series.map(({ label }) => label);
    const options = { formatAxis, least, whole, labels, width: element.clientWidth, onPoint: setPointed };
    const made = new uPlot(plotOptions(options), data, element);
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: kHeight }));
    resized.observe(element);
    const unsubscribe = theme.subscribe(() => made.redraw(false, true));
    return () => {
      unsubscribe();
      resized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, []);
  // With the legend, not a frame after it.
  useLayoutEffect(() => plot.current?.setData(data), [ages]);

  const shown = (values: Series["values"]): string => {
    let at = ages.length - 1;
    if (pointed !== null && pointed < ages.length) at = pointed;
    else if (hold) at = values.findLastIndex((value) => value !== null);
    const value = values[at] ?? null;
    return value === null ? "–" : format(value, at);
  };
  return (
    <figure class="chart" data-points={ages.length}>
      <figcaption>
        <span class="chart-title">{title}</span>
        <span class="legend">
          {series.map(({ label, values }, i) => (
            <span class={series.length > 1 ? `key key-${i + 1}` : ""} key={label}>
              {series.length > 1 && label} <b>{shown(values)}</b>
            </span>
          ))}
        </span>
      </figcaption>
      <div class="plot" ref={holder} aria-hidden="true" />
    </figure>
  );
}
