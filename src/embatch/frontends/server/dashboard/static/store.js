// What the page knows: the last message, and some minutes of everything that has a time.

const KEPT_S = 300;
const KEPT_BATCHES = 500;

const COLUMNS = {
  seconds: ["at", "texts", "tokens", "asks", "turned_away"],
  gauges: ["at", "interactive", "batch", "running", "rss_bytes", "budget", "p50", "p90", "p99"],
  batches: ["at", "seconds", "failed", "model", "items", "longest", "tokens", "padded_tokens", "budget", "fresh"],
};

export class Store {
  constructor() {
    this.now = 0;
    this.last = null;
    this.forget();
  }

  forget() {
    this.seconds = [];
    this.gauges = [];
    this.batches = [];
  }

  take(message) {
    if (message.since === 0) this.forget();
    const had = { seconds: lastAt(this.seconds), gauges: lastAt(this.gauges), batches: message.since };
    for (const [name, columns] of Object.entries(COLUMNS)) {
      const fresh = rows(message[name], columns).filter((row) => row.at > had[name]);
      const kept = this[name].concat(fresh);
      this[name] = name === "batches"
        ? kept.slice(-KEPT_BATCHES)
        : kept.filter((row) => row.at > message.at - KEPT_S);
    }
    this.now = message.at;
    this.last = message;
  }

  // One value for each whole second of the span that is over, oldest first: 0 where nothing happened, null before the
  // server was there.
  perSecond(name, span) {
    const end = Math.floor(this.now);
    const found = new Map(this.seconds.map((row) => [row.at, row[name]]));
    const times = [];
    const values = [];
    for (let at = end - span; at < end; at += 1) {
      times.push(at + 1 - end);
      values.push(found.has(at) ? found.get(at) : at + 1 < this.last.started_at ? null : 0);
    }
    return [times, values];
  }

  // Looks within the span: times relative to now, and a column for each name. Where nobody looked is a gap.
  looks(names, span) {
    const columns = [[], ...names.map(() => [])];
    let before = null;
    for (const row of this.gauges) {
      if (row.at <= this.now - span) continue;
      if (before !== null && row.at - before > 5) {
        columns.forEach((column, at) => column.push(at ? null : before + 1 - this.now));
      }
      columns[0].push(row.at - this.now);
      names.forEach((name, at) => columns[at + 1].push(row[name]));
      before = row.at;
    }
    return columns;
  }

  batchesWithin(span) {
    return this.batches.filter((row) => row.at > this.now - span && !row.failed);
  }
}

function lastAt(list) {
  return list.length ? list[list.length - 1].at : 0;
}

function rows(columns, names) {
  if (!columns) return [];
  return columns.at.map((_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
}
