// The workers: what the form may offer, and the panel that shows them at work.

import { $, count, duration, el, icon, show } from "./dom.js";

let workers = null;
let connection = "Connecting";

const merged = (lists) => [...new Set(lists.flat())];

/** Every model by its name, the pool's first before the others. */
export function models() {
  const found = new Map();
  for (const worker of workers ?? []) {
    for (const name of worker.models) {
      const model = found.get(name) ?? { name, native: null, schedulers: [], loras: [], workers: 0, resident: false };
      model.native ??= worker.native_sizes?.[name] ?? null;
      model.schedulers = merged([model.schedulers, worker.schedulers ?? []]);
      model.loras = merged([model.loras, worker.loras?.names ?? []]);
      model.resident ||= (worker.resident ?? []).includes(name);
      model.workers += 1;
      found.set(name, model);
    }
  }
  return found;
}

/** Whether a worker makes masks of what is pointed at. */
export const canPoint = () => (workers ?? []).some((worker) => worker.segmenter);

/** The model of jobs that name none, where all workers have the same. */
export function firstModel() {
  const [first, ...others] = new Set(workers?.map((worker) => worker.model_id));
  return others.length ? null : first;
}

const WORDS = { ready: "ready", busy: "drawing", shutting_down: "takes no more jobs" };

export function put(told) {
  workers = told.toSorted((a, b) => a.id.localeCompare(b.id));
  $("fleet").replaceChildren(...workers.map(row));
  show($("fleet-count"), workers.length ? String(workers.length) : "");
  show(
    $("fleet-empty"),
    workers.length ? "" : "No worker is up. Start one, and it appears here; a job that is sent now waits for it.",
  );
  summarize();
}

/** `open`, or why queen is not heard. */
export function connected(state) {
  connection = state;
  summarize();
}

function summarize() {
  const summary = $("summary");
  const free = (workers ?? []).reduce((sum, worker) => sum + worker.free_slots, 0);
  const slots = (workers ?? []).reduce((sum, worker) => sum + worker.slots, 0);
  let [state, text] = ["good", `${count(workers?.length ?? 0, "worker")}, ${free} of ${count(slots, "slot")} free`];
  if (connection !== "open") [state, text] = ["bad", workers ? `Connecting again: ${connection}` : connection];
  else if (!workers) [state, text] = ["wait", "Connecting"];
  else if (!workers.length) [state, text] = ["bad", "No worker is up"];
  else if (!free) [state, text] = ["busy", `${count(workers.length, "worker")}, all busy`];
  summary.dataset.state = state;
  show($("summary-text"), text);
}

function row(worker) {
  const cells = Array.from({ length: Math.min(worker.slots, 32) }, (_, slot) =>
    icon("cell", { class: slot < worker.slots - worker.free_slots ? "cell taken" : "cell" }),
  );
  const resident = worker.resident ?? [];
  const facts = [
    worker.step_ms && `${duration(worker.step_ms)} a step`,
    count(worker.jobs_done ?? 0, "job done", "jobs done"),
    worker.hive_id && `hive ${worker.hive_id}`,
    `version ${worker.version}`,
  ];
  return el(
    "li",
    { class: "worker", "data-state": worker.status },
    el(
      "p",
      { class: "line" },
      el("span", { class: "dot" }),
      el("strong", {}, worker.id),
      el("span", { class: "tag" }, worker.device),
    ),
    el(
      "p",
      { class: "line soft" },
      el("span", { class: "cells", "aria-hidden": "true" }, ...cells),
      `${WORDS[worker.status] ?? worker.status}, ${worker.free_slots} of ${count(worker.slots, "slot")} free`,
    ),
    el(
      "ul",
      { class: "plain tags", "aria-label": "Models" },
      ...worker.models.map((name) =>
        el(
          "li",
          { class: resident.includes(name) ? "tag resident" : "tag" },
          name,
          resident.includes(name) && el("span", { class: "soft" }, " in memory"),
        ),
      ),
    ),
    el("p", { class: "soft small-text" }, facts.filter(Boolean).join(" · ")),
  );
}
