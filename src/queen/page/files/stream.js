// One connection a tab for the events of all its jobs and for the fleet: browsers open six to a host, and no more.

import { ask } from "./api.js";

/** Jobs of one stream, as queen allows; the others are followed when these have ended. */
const MOST = 64;
/** Queen sends a comment every 10 s at least. */
const SILENCE = 30_000;
const PAUSES = [500, 1000, 2000, 5000, 10_000];

/**
 * Follows the jobs that `wanted()` names. `event`, `fleet` and `state` are told what comes; the state is `open` or
 * why there is no stream. Returns what is to be called when other jobs are wanted, or with true
 * to open the stream again at once.
 */
export function follow({ wanted, event, fleet, state }) {
  let cursor = "";
  let current = null;
  let followed = new Set();
  let failures = 0;
  let timer = 0;

  async function run() {
    clearTimeout(timer);
    current?.abort();
    if (document.hidden) return;
    const mine = (current = new AbortController());
    try {
      await read(mine);
      retry(mine, "queen ended the stream");
    } catch (error) {
      if (mine.signal.aborted && mine !== current) return;
      retry(mine, error.message, error.wait);
    }
  }

  async function read(mine) {
    const ids = wanted().slice(0, MOST);
    followed = new Set(ids);
    const query = new URLSearchParams({ fleet: "1", images: "0" });
    if (ids.length) query.set("jobs", ids.join(","));
    const headers = cursor ? { "Last-Event-ID": cursor } : {};
    const response = await ask(`/v1/events?${query}`, { headers, signal: mine.signal, cache: "no-store" });
    failures = 0;
    state("open");
    for await (const message of messages(response.body, mine)) {
      if (mine !== current) return;
      if (message.id) cursor = message.id;
      const data = JSON.parse(message.data);
      if (message.event === "fleet") fleet(data.workers);
      else event(data);
    }
  }

  function retry(mine, why, wait = 0) {
    if (mine !== current || document.hidden) return;
    state(why);
    const pause = PAUSES[Math.min(failures++, PAUSES.length - 1)];
    timer = setTimeout(run, Math.max(pause, wait * 1000));
  }

  let soon = 0;
  const again = (all = false) => {
    if (
      !all &&
      wanted()
        .slice(0, MOST)
        .every((id) => followed.has(id))
    )
      return;
    clearTimeout(soon);
    soon = setTimeout(run, 20);
  };
  // A hidden tab holds no connection; the cursor knows where it was.
  document.addEventListener("visibilitychange", () => (document.hidden ? current?.abort() : run()));
  addEventListener("online", run);
  run();
  return again;
}

/** The messages of a body of server-sent events. */
async function* messages(body, controller) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let message = { event: "", data: "", id: "" };
  for (;;) {
    const silence = setTimeout(() => controller.abort(), SILENCE);
    const { value, done } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) {
      const [, name, rest] = /^(\w+): ?([^\r]*)/.exec(line) ?? [];
      if (name === "data") message.data += (message.data && "\n") + rest;
      else if (name) message[name] = rest;
      else if (line.trim() === "") {
        if (message.data) yield message;
        message = { event: "", data: "", id: "" };
      }
    }
  }
}
