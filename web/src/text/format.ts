// Numbers as the page shows them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

export function formatCount(value: number): string {
  return whole.format(value);
}

export function formatRate(value: number): string {
  return value < 10 ? one.format(value) : whole.format(value);
}

export function formatSeconds(value: number): string {
  if (value < 0.00995) return `${one.format(value * 1000)} ms`;
  if (value < 0.9995) return `${whole.format(value * 1000)} ms`;
  return value < 60 ? `${one.format(value)} s` : `${whole.format(value)} s`;
}

export function formatPercent(value: number): string {
  return `${(value < 0.1 ? twoDigits : whole).format(value * 100)} %`;
}

// 1234 -> 1.2k, for the axes of charts.
export function formatShort(value: number): string {
  if (value >= 1e6) return `${one.format(value / 1e6)}M`;
  if (value >= 1e3) return `${one.format(value / 1e3)}k`;
  return one.format(value);
}

// "tp=1,dp=1,ep=1,moe_tp=1,moe_dp=1" -> "1 rank"; what splits anything stays as the server tells it.
export function formatStrategy(text: string): string {
  return /^(\w+=1,)*\w+=1$/.test(text) ? "1 rank" : text;
}
