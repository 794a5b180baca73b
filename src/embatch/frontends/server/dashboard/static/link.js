// The link to the server: a stream of status messages that comes back by itself, over fetch, so that an API key travels
// in a header and never in an address. Where no stream can be had, it asks now and then.

const KEPT = "embatch-key";
const SHORTEST_MS = 500;
const LONGEST_MS = 5000;
const POLL_MS = 2000;
const SILENCE_MS = 10000;

export function key() {
  try {
    return sessionStorage.getItem(KEPT) || "";
  } catch {
    return "";
  }
}

export function keepKey(text) {
  try {
    if (text) sessionStorage.setItem(KEPT, text);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // A browser that keeps nothing asks again next time.
  }
}

export function headers(more = {}) {
  const secret = key();
  return secret ? { ...more, Authorization: `Bearer ${secret}` } : more;
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// told.status(message), told.state("live" | "polling" | "gone" | "key", words)
export class Link {
  constructor(told) {
    this.told = told;
    this.since = 0;
    this.wait = SHORTEST_MS;
    this.stopped = false;
    this.wake = () => {};
  }

  async run() {
    while (!this.stopped) {
      try {
        await this.once();
      } catch (error) {
        if (error.name === "KeyNeeded") {
          this.told.state("key");
          await new Promise((done) => { this.wake = done; });
          continue;
        }
        this.told.state("gone");
      }
      await Promise.race([sleep(this.wait), new Promise((done) => { this.wake = done; })]);
      this.wait = Math.min(LONGEST_MS, this.wait * 1.6);
    }
  }

  // Try again now: a key was given, or the network is back.
  again() {
    this.wait = SHORTEST_MS;
    this.wake();
  }

  async once() {
    const stop = new AbortController();
    const answer = await fetch("/dashboard/stream", { headers: headers(), cache: "no-store", signal: stop.signal });
    if (answer.status === 401 || answer.status === 403) throw keyNeeded();
    if (!answer.ok || !answer.body) {
      stop.abort();
      await this.poll();
      return;
    }
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const silent = setTimeout(() => stop.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(silent));
      if (done) break;
      rest += decoder.decode(value, { stream: true });
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) this.take(part);
    }
    this.told.state("gone");
  }

  take(part) {
    const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("");
    if (!data || !part.startsWith("event: status")) return;
    this.wait = SHORTEST_MS;
    this.deliver(JSON.parse(data), "live");
  }

  async poll() {
    for (let round = 0; round < 15 && !this.stopped; round += 1) {
      const answer = await fetch(`/dashboard/status?since=${this.since}`, { headers: headers(), cache: "no-store" });
      if (answer.status === 401 || answer.status === 403) throw keyNeeded();
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      this.deliver(await answer.json(), "polling");
      await sleep(POLL_MS);
    }
    this.wait = SHORTEST_MS;
  }

  deliver(message, state) {
    this.since = message.at;
    this.told.state(state, message);
    this.told.status(message);
  }
}

function keyNeeded() {
  const error = new Error("a key is needed");
  error.name = "KeyNeeded";
  return error;
}
