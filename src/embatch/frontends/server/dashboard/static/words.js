// Numbers as people read them. Nothing here touches the page.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const NONE = "–";

export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (Math.abs(value) >= 100 || Number.isInteger(value)) return whole.format(value);
  return one.format(value);
}

// 1,234 → "1,234"; 123,456 → "123k"; 4,200,000 → "4.2M"
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e9) return `${one.format(value / 1e9)}G`;
  if (size >= 1e6) return `${one.format(value / 1e6)}M`;
  if (size >= 1e5) return `${whole.format(value / 1e3)}k`;
  return number(value);
}

// For axes, where there is little room: 4,096 → "4.1k".
export function tick(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toFixed(1)}G`;
  if (size >= 1e6) return `${+(value / 1e6).toFixed(1)}M`;
  if (size >= 1e3) return `${+(value / 1e3).toFixed(1)}k`;
  return `${+value.toFixed(2)}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value >= 1000) return whole.format(value);
  return value >= 100 ? whole.format(value) : value.toFixed(1);
}

// A time in the unit that suits it: 36.4 ms, 825 ms, 12.3 s.
export function time(ms) {
  if (ms === null || ms === undefined) return NONE;
  return ms >= 10000 ? `${one.format(ms / 1000)} s` : `${milliseconds(ms)} ms`;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return NONE;
  return value >= 1e9 ? `${(value / 1e9).toFixed(2)} GB` : `${whole.format(value / 1e6)} MB`;
}

export function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return NONE;
  return `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
}

export function dollars(value) {
  if (!Number.isFinite(value)) return NONE;
  return `$${value.toFixed(value >= 100 ? 0 : value >= 1 ? 2 : 4)}`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

export function count(value, noun, plural = `${noun}s`) {
  return `${number(value)} ${value === 1 ? noun : plural}`;
}
