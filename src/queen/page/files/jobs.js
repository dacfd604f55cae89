// The jobs of this browser: sent, followed, cancelled, kept. What is shown of them is elsewhere.

import { Refused, ask } from "./api.js";
import { count, duration, say } from "./dom.js";
import { dropJob, onJob, readJobs, writeJob, writePicture } from "./keep.js";

/** Jobs that are kept; the oldest that have ended go. */
const MOST = 200;
/** How long a job that queen has no room for is sent again. */
const PATIENCE = 15 * 60_000;
const ACTIVE = ["sending", "queued", "running"];
/** What is kept of a job; the rest is of the moment. */
const KEPT = [
  "id",
  "created",
  "request",
  "inputs",
  "status",
  "model",
  "seed",
  "worker",
  "images",
  "ms",
  "warnings",
  "why",
];

const known = new Map();
/** `change` with a job in `detail`, or null where several changed; `new` with one that is about to be sent. */
export const changes = new EventTarget();
/** Called when there are other jobs to follow, or all are to be asked for again. */
let followOthers = () => {};

export const job = (id) => known.get(id);
export const isActive = (job) => ACTIVE.includes(job.status);
/** The newest first. */
export const all = () => [...known.values()].sort((a, b) => b.created - a.created);
/** The oldest first: they are done sooner. */
export const active = () => all().filter(isActive).reverse();
/** Those that queen should know; of one that another tab is sending it does not yet. */
export const toFollow = () => active().filter((job) => job.status !== "sending" || job.orphan);

const tell = (detail) => changes.dispatchEvent(new CustomEvent("change", { detail }));

function keep(job) {
  writeJob(Object.fromEntries(KEPT.filter((key) => job[key] != null).map((key) => [key, job[key]])));
}

function set(job, fields) {
  const before = job.status;
  Object.assign(job, fields);
  if (job.status !== before || fields.worker || fields.seed) keep(job);
  tell(job);
}

export function start(others) {
  followOthers = others;
  // Who was sending a job may be gone.
  for (const job of readJobs()) known.set(job.id, { ...job, orphan: job.status === "sending" });
  onJob((id, job) => {
    if (!job) known.delete(id);
    else if (known.has(id)) Object.assign(known.get(id), job);
    else known.set(id, job);
    tell(null);
    followOthers();
  });
  tell(null);
}

/** What a picture of a job is drawn with, alone. Seeds have up to 64 bits: they are text here. */
export function seedOf(job, index) {
  const first = job.request.seed ?? job.seed;
  return first == null ? "" : String(BigInt(first) + BigInt(index));
}

/** The body of a request; a seed of 64 bits is no number that JavaScript writes. */
function body({ seed, ...fields }) {
  const text = JSON.stringify(fields);
  return seed == null ? text : `${text.slice(0, -1)},"seed":${seed}}`;
}

const base64 = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

/** An id that nobody guesses; it is there before queen answers, so that a lost answer costs no second picture. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends a job. `inputs`: pictures by the names of their fields. Throws what queen says of a job that it refuses. */
export async function submit(request, inputs = {}) {
  const names = Object.keys(inputs);
  const job = { id: newId(), created: Date.now(), request, inputs: names, status: "sending" };
  known.set(job.id, job);
  keep(job);
  prune();
  changes.dispatchEvent(new CustomEvent("new", { detail: job }));
  const sent = { ...request, job_id: job.id };
  for (const name of names) {
    writePicture(`${job.id}/${name}`, inputs[name]);
    sent[name] = await base64(inputs[name]);
  }
  try {
    await send(job, body(sent));
  } catch (error) {
    forget(job);
    throw error;
  }
  return job;
}

async function send(job, text) {
  const end = Date.now() + PATIENCE;
  while (job.status === "sending") {
    try {
      job.abort = new AbortController();
      await ask("/v1/jobs", {
        method: "POST",
        body: text,
        headers: { "Content-Type": "application/json" },
        signal: job.abort.signal,
      });
      if (job.status === "sending") set(job, { status: "queued", reason: "" });
      followOthers();
    } catch (error) {
      if (job.status !== "sending") return;
      if (!(error instanceof Refused) || !error.passes) throw error;
      if (Date.now() > end) return set(job, { status: "failed", why: error.message });
      const wait = Math.max(1, error.wait);
      set(job, { reason: `${error.message}; it is sent again in ${wait} s` });
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
}

export async function cancel(job) {
  if (job.status === "sending") {
    set(job, { status: "cancelled" });
    job.abort?.abort();
    // It may have arrived.
    return ask(`/v1/jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
  }
  set(job, { cancelling: true });
  try {
    await ask(`/v1/jobs/${job.id}`, { method: "DELETE" });
  } catch (error) {
    // 409: it has ended, and its last event is on its way.
    if (error.status !== 409) set(job, { cancelling: false, reason: `it cannot be cancelled: ${error.message}` });
  }
}

/** Takes a job out of this browser's list; queen keeps it as long as it keeps jobs. */
export function forget(job) {
  known.delete(job.id);
  dropJob(job.id);
  tell(null);
}

export const forgetEnded = () =>
  all()
    .filter((job) => !isActive(job))
    .forEach(forget);

function prune() {
  for (const old of all().slice(MOST)) if (!isActive(old)) forget(old);
}

/** An event of the stream. */
export function happened(event) {
  const job = known.get(event.job_id);
  if (!job || !isActive(job)) return;
  const { step, total } = event;
  switch (event.type) {
    case "queued":
      return set(job, { status: "queued", position: event.position, reason: event.reason ?? "", step: 0 });
    case "accepted":
      say(`${event.worker_id} has the job`);
      return set(job, {
        status: "running",
        model: event.model,
        seed: job.request.seed ?? event.seed,
        worker: event.worker_id,
        position: event.position,
        reason: "",
        step: 0,
      });
    case "progress":
      return set(job, { status: "running", step, total, eta: event.eta_ms, position: 0 });
    case "preview":
      return set(job, { status: "running", preview: `data:image/jpeg;base64,${event.image}` });
    case "complete": {
      const images = event.images.map(({ width, height, format, bytes }) => ({ width, height, format, bytes }));
      const { total: ms } = event.timings_ms;
      say(`Done: ${count(images.length, "picture")} in ${duration(ms)}`);
      return set(job, { status: "completed", model: event.model, images, ms, warnings: event.warnings });
    }
    case "cancelled":
      say("Cancelled");
      return set(job, { status: "cancelled" });
    case "error":
      say(`Failed: ${event.message}`);
      return set(job, { status: "failed", why: event.message });
    case "unknown":
      // It may be on its way yet.
      if (job.status === "sending" && Date.now() - job.created < 60_000) return setTimeout(followOthers, 3000, true);
      return set(job, { status: "unknown", why: "Queen knows no such job: it never arrived, or was forgotten." });
  }
}

/** How a job is, in words. */
export const state = (job) => worded(job).replace(/^./, (first) => first.toUpperCase());

function worded(job) {
  switch (job.status) {
    case "sending":
      return job.reason || "Being sent";
    case "queued":
      if (job.reason) return job.reason;
      return job.position > 0 ? `Waits: ${count(job.position, "job")} ahead` : "Waits for a worker";
    case "running":
      if (job.cancelling) return "Being cancelled";
      if (job.position > 0) return `With ${job.worker}, ${count(job.position, "job")} ahead`;
      if (!job.step) return `With ${job.worker}`;
      return `Step ${job.step} of ${job.total}${job.eta ? `, ${duration(job.eta)} left` : ""}`;
    case "completed":
      return `Done in ${duration(job.ms)}`;
    case "cancelled":
      return "Cancelled";
    case "unknown":
      return "Not found";
    default:
      return "Failed";
  }
}
