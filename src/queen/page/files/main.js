// The page: its parts put together, keys, pictures that are dropped.

import { $, button, say } from "./dom.js";
import * as fleet from "./fleet.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as jobs from "./jobs.js";
import { readPicture } from "./keep.js";
import { picture } from "./pictures.js";
import { settingsOf } from "./png.js";
import * as source from "./source.js";
import * as stage from "./stage.js";
import { follow } from "./stream.js";

async function send(request, inputs) {
  form.complain();
  notice();
  try {
    await jobs.submit(request, inputs);
  } catch (error) {
    form.complain(error.message);
  }
}

function draw() {
  const request = form.request();
  if (request) send(request, source.inputs());
}

/** Draws a job once more: one picture by its seed, or as many as it had by a new one. */
async function again(job, seed) {
  const { seed: _, n, ...request } = job.request;
  const inputs = {};
  for (const name of job.inputs ?? []) {
    inputs[name] = await readPicture(`${job.id}/${name}`);
    if (!inputs[name]) return notice("The picture that this job started from is not in this browser any more.");
  }
  if (seed !== null) request.seed = seed;
  else if (n) request.n = n;
  return send(request, inputs);
}

function settings(job, seed) {
  form.fill({ ...job.request, n: 1, ...(seed && { seed }) });
  $("prompt").focus();
  say("Its settings are in the form");
}

async function startFrom(job, index, masked) {
  await guarded(async () => {
    await source.take((await picture(job, index)).blob);
    if (!$("prompt").value) form.fill({ ...job.request, seed: undefined });
    notice("The picture is in the form: what is drawn next starts from it.");
    if (masked) await source.openMask();
  });
}

function example(text) {
  $("prompt").value = text;
  $("prompt").dispatchEvent(new Event("input", { bubbles: true }));
  draw();
}

/** Says what happened, and offers what could be done with it. */
function notice(text = "", offers = "", act = null) {
  const node = $("notice");
  node.replaceChildren(text);
  if (act)
    node.append(
      " ",
      button(offers, () => (notice(), act())),
    );
  node.hidden = !text;
  if (text) say(text);
}

async function guarded(act) {
  try {
    await act();
  } catch (error) {
    notice(error.message);
  }
}

/** A picture that came in: as what a job starts from, or for its settings. Each offers the other. */
function came(file, asSource) {
  return guarded(async () => {
    const found = await settingsOf(file);
    const fill = () => form.fill(found);
    if (asSource || !found) {
      await source.take(file);
      if (found && !$("prompt").value.trim()) fill();
      else if (found) return notice("The picture carries settings.", "Put them into the form", fill);
      return notice(
        found
          ? "Its settings are in the form, and what is drawn starts from it."
          : "What is drawn next starts from this picture.",
      );
    }
    fill();
    return notice("The settings of this picture are in the form.", "Start from the picture, too", () =>
      guarded(() => source.take(file)),
    );
  });
}

function watchDrops() {
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const over = (change) => (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    depth = Math.max(0, depth + change);
    $("drop").hidden = depth === 0;
  };
  addEventListener("dragenter", over(1));
  addEventListener("dragleave", over(-1));
  addEventListener("dragover", over(0));
  addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) came(file, $("zone").contains(event.target));
  });
  $("zone").addEventListener("picture", ({ detail }) => came(detail, true));
}

function watchKeys() {
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      draw();
    } else if (event.key === "Escape") {
      const shown = stage.current();
      const job = shown && jobs.isActive(shown) ? shown : jobs.active().at(-1);
      if (job) jobs.cancel(job);
    }
  });
}

function start() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  form.start();
  stage.start({ again, settings, startFrom, example });
  gallery.start();
  watchDrops();
  watchKeys();
  // Jobs are read before the stream is opened, so that it follows them.
  let others = () => {};
  jobs.start((again) => others(again));
  others = follow({
    wanted: () => jobs.toFollow().map((job) => job.id),
    event: jobs.happened,
    fleet(workers) {
      fleet.put(workers);
      form.offer();
    },
    state: fleet.connected,
  });
}

start();
