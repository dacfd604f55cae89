// The lists of this browser's jobs: those that wait or run, and those that have ended.

import { $, button, count, el, icon, show } from "./dom.js";
import * as jobs from "./jobs.js";
import { thumbnail } from "./pictures.js";
import * as stage from "./stage.js";

const ENDED = { failed: "Failed", cancelled: "Cancelled", unknown: "Not found" };
const rows = new Map();
const cards = new Map();

/** Pictures are fetched when they come into sight. */
const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      const job = jobs.job(target.dataset.job);
      if (job)
        thumbnail(job).then(
          (url) => (target.src = url),
          () => target.replaceWith(icon("cell")),
        );
    }
  },
  { rootMargin: "200px" },
);

export function start() {
  let waiting = 0;
  const later = () => (waiting ||= requestAnimationFrame(() => ((waiting = 0), display())));
  for (const name of ["change", "new", "select"]) jobs.changes.addEventListener(name, later);
  $("cancel-waiting").onclick = () => jobs.active().filter(waits).forEach(jobs.cancel);
  $("forget").onclick = () =>
    confirm("Clear the list of pictures in this browser? Queen keeps hers.") && jobs.forgetEnded();
}

const waits = (job) => job.status !== "running" && !job.cancelling;

function display() {
  const active = jobs.active();
  const ended = jobs.all().filter((job) => !jobs.isActive(job));
  $("queue").hidden = !active.length;
  $("queue-count").textContent = active.length;
  $("cancel-waiting").hidden = active.filter(waits).length < 2;
  list($("queue-list"), rows, active, row, (node, job) => {
    const { image, state, bar, stop } = node.parts;
    image.hidden = !job.preview;
    if (job.preview && image.src !== job.preview) image.src = job.preview;
    state.textContent = jobs.state(job);
    stop.disabled = job.cancelling === true;
    bar.hidden = !job.step;
    if (job.step) bar.value = job.step / job.total;
    mark(node, job);
  });
  show($("gallery-count"), ended.length ? String(ended.length) : "");
  $("gallery-empty").hidden = ended.length > 0;
  $("forget").hidden = !ended.length;
  list($("gallery"), cards, ended, card, mark);
  document.title = active.length ? `(${active.length}) rbee: draw` : "rbee: draw";
}

/** Brings the nodes of a list into the order of its jobs, and leaves those alone that stand where they should. */
function list(parent, nodes, wanted, make, update) {
  const ids = new Set(wanted.map((job) => job.id));
  for (const [id, node] of nodes) {
    if (ids.has(id)) continue;
    node.remove();
    nodes.delete(id);
  }
  wanted.forEach((job, at) => {
    if (!nodes.has(job.id)) nodes.set(job.id, make(job));
    const node = nodes.get(job.id);
    if (parent.children[at] !== node) parent.insertBefore(node, parent.children[at] ?? null);
    update(node, job);
  });
}

const mark = (node, job) =>
  node.querySelector(".choose-job").setAttribute("aria-current", String(stage.current() === job));

const choose = (job) => () => {
  stage.select(job);
  $("stage").scrollIntoView({ block: "nearest" });
};

function row(job) {
  const image = el("img", { alt: "" });
  const state = el("span", { class: "soft" });
  const bar = el("progress", { max: 1, "aria-label": "Progress" });
  const stop = button(
    "",
    () => jobs.cancel(job),
    { class: "icon stop", "aria-label": `Cancel: ${short(job)}` },
    icon("stop"),
  );
  const node = el(
    "li",
    { class: "queued" },
    el(
      "button",
      { type: "button", class: "choose-job", onclick: choose(job) },
      el("span", { class: "mini" }, icon("cell"), image),
      el("span", { class: "texts" }, el("span", { class: "cut" }, job.request.prompt), state),
    ),
    stop,
    bar,
  );
  node.parts = { image, state, bar, stop };
  return node;
}

const short = (job) => (job.request.prompt.length > 80 ? `${job.request.prompt.slice(0, 80)}…` : job.request.prompt);

function card(job) {
  const pictures = job.images?.length ?? 0;
  const label = `${ENDED[job.status] ?? count(pictures, "picture")}: ${short(job)}`;
  const inside = ENDED[job.status]
    ? el("span", { class: "ended" }, icon(job.status === "failed" ? "stop" : "cell"), ENDED[job.status])
    : el("img", { alt: "", "data-job": job.id });
  if (!ENDED[job.status]) sight.observe(inside);
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: "choose-job thumb", "aria-label": label, title: short(job), onclick: choose(job) },
      inside,
      pictures > 1 && el("span", { class: "badge", "aria-hidden": "true" }, pictures),
    ),
  );
}
