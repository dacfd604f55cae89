// One job at large: the picture as it grows, then the picture, what it was drawn with, and what can be done with it.

import { button, el, icon, say, show, $ } from "./dom.js";
import { models } from "./fleet.js";
import * as jobs from "./jobs.js";
import { fileName, picture, thumbnail } from "./pictures.js";

/** What the shipped checkpoint draws, too. */
const EXAMPLES = [
  "a large red circle on a blue background",
  "a small yellow star on a purple background",
  "a large pink heart on a white background",
];
/** A small picture is not made larger than this, in pixels, or than twice its size. */
const LEAST_WIDTH = 512;

let selected = null;
let index = 0;
let does = {};
let parts = null;

/** `actions`: what is done with a job's picture, by name. */
export function start(actions) {
  does = actions;
  jobs.changes.addEventListener("new", ({ detail }) => select(detail, true));
  jobs.changes.addEventListener("change", ({ detail }) => {
    if (selected && !jobs.job(selected.id)) selected = null;
    if (!selected) select(jobs.active()[0] ?? jobs.all()[0] ?? null);
    else if (!detail || detail === selected) display();
  });
  select(null);
}

export const current = () => selected;

export function select(job, isNew = false) {
  const isOther = selected !== job;
  [selected, index] = [job, 0];
  if (!job) return empty();
  if (isOther || !parts) build();
  display();
  changed();
  // On a phone the picture is below the form.
  if (isNew) $("stage").scrollIntoView({ block: "nearest" });
  return undefined;
}

const changed = () => jobs.changes.dispatchEvent(new CustomEvent("select"));

function empty() {
  parts = null;
  const examples = EXAMPLES.map((text) =>
    el(
      "li",
      {},
      button(text, () => does.example(text), { class: "example" }),
    ),
  );
  $("stage").replaceChildren(
    el(
      "div",
      { class: "empty" },
      icon("comb", { class: "comb" }),
      el("h2", {}, "Say what to draw"),
      el("p", { class: "soft" }, "The picture grows here, step by step. To begin with:"),
      el("ul", { class: "plain examples" }, ...examples),
    ),
  );
}

function build() {
  const image = el("img", { alt: "" });
  const bar = el("progress", { max: 100, "aria-label": "Progress" });
  const state = el("p", { class: "state" });
  const stop = button("Cancel", () => jobs.cancel(selected), { class: "small stop", title: "Esc" }, icon("stop"));
  const frame = el("div", { class: "frame" }, icon("cell", { class: "waiting" }), image);
  parts = {
    image,
    bar,
    state,
    stop,
    frame,
    why: el("p", { class: "error", hidden: true }),
    strip: el("ul", { class: "plain strip", hidden: true }),
    words: el("p", { class: "words" }),
    facts: el("dl", { class: "facts" }),
    warnings: el("ul", { class: "warnings" }),
    tools: el("div", { class: "buttons" }),
    shown: "",
  };
  const { why, strip, words, facts, warnings, tools } = parts;
  $("stage").replaceChildren(
    el("div", { class: "mat" }, frame),
    bar,
    el(
      "div",
      { class: "caption" },
      el("div", { class: "line" }, state, stop),
      why,
      strip,
      words,
      facts,
      warnings,
      tools,
    ),
  );
}

function display() {
  const job = selected;
  const { image, bar, state, stop, frame, why, words } = parts;
  const isActive = jobs.isActive(job);
  frame.dataset.state = job.status;
  size(job);
  state.textContent = jobs.state(job);
  show(why, job.why ?? "");
  show(words, job.request.prompt);
  // Where it had the focus, it goes where that is of use.
  if (!isActive && document.activeElement === stop) $("stage").focus();
  stop.hidden = !isActive;
  stop.disabled = job.cancelling === true;
  bar.hidden = !isActive;
  if (job.step) bar.value = (100 * job.step) / job.total;
  else bar.removeAttribute("value");
  if (job.status === "completed") whole(job);
  else if (job.preview) put(image, job.preview, job);
  else clear(image);
  details(job);
}

function put(image, url, job) {
  if (image.src !== url) image.src = url;
  image.alt =
    job.status === "completed" ? `Picture: ${job.request.prompt}` : `How it looks so far: ${job.request.prompt}`;
  image.hidden = false;
}

function clear(image) {
  image.hidden = true;
  image.removeAttribute("src");
}

async function whole(job) {
  const { image, why } = parts;
  const at = index;
  // Meanwhile the last preview stays, or a small one that this browser has.
  if (job.preview) put(image, job.preview, job);
  try {
    const { url } = await picture(job, at);
    if (selected === job && index === at) put(image, url, job);
  } catch (error) {
    if (selected === job) show(why, `The picture cannot be had: ${error.message}`);
  }
}

/** The frame has the picture's proportions before there is a picture. */
function size(job) {
  const native = models().get(job.model ?? job.request.model)?.native;
  const [width, height] = job.images
    ? [job.images[index].width, job.images[index].height]
    : [job.request.width ?? native?.[0] ?? 512, job.request.height ?? native?.[1] ?? 512];
  parts.frame.style.setProperty("--ratio", width / height);
  parts.frame.style.setProperty("--most", `${Math.max(LEAST_WIDTH, width * 2)}px`);
}

/** What changes seldom; elements that have the focus stay while nothing of it does. */
function details(job) {
  const shown = [job.id, job.status, index, job.model, job.seed, job.worker].join();
  if (parts.shown === shown) return;
  parts.shown = shown;
  const { request } = job;
  const image = job.images?.[index];
  const facts = {
    Model: job.model ?? request.model,
    Size: image
      ? `${image.width} × ${image.height}`
      : request.width && request.height && `${request.width} × ${request.height}`,
    Seed: jobs.seedOf(job, index),
    Steps: request.steps,
    Guidance: request.guidance_scale,
    Scheduler: request.scheduler,
    Strength: request.strength,
    LoRAs: request.loras?.map(({ path, strength }) => `${path} (${strength ?? 1})`).join(", "),
    Negative: request.negative_prompt,
    Worker: job.worker,
  };
  const given = Object.entries(facts).filter(([, value]) => value != null && value !== "");
  parts.facts.replaceChildren(
    ...given.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))),
  );
  parts.warnings.replaceChildren(...(job.warnings ?? []).map((text) => el("li", {}, text)));
  parts.tools.replaceChildren(...tools(job));
  strip(job);
}

function tools(job) {
  if (jobs.isActive(job)) return [];
  const at = index;
  const first = job.status === "completed" ? jobs.seedOf(job, at) : jobs.seedOf(job, 0);
  const again = [
    first && button("Again, same seed", () => does.again(job, first), { class: "small again" }),
    button("Again, new seed", () => does.again(job, null), { class: "small again" }),
    button("Use its settings", () => does.settings(job, first)),
  ];
  const remove = button("Remove", () => jobs.forget(job));
  if (job.status !== "completed") return [...again.filter(Boolean), remove];
  const save = button("Save", async () => {
    const { url } = await picture(job, at);
    el("a", { href: url, download: fileName(job, at) }).click();
  });
  const startFrom = button("Start from it", () => does.startFrom(job, at, false));
  const mask = button("Paint a mask on it", () => does.startFrom(job, at, true));
  return [...again, startFrom, mask, save, remove];
}

function strip(job) {
  const { strip } = parts;
  const images = job.images ?? [];
  strip.hidden = images.length < 2;
  strip.replaceChildren(
    ...(strip.hidden ? [] : images).map((_, at) => {
      const image = el("img", { alt: "" });
      thumbnail(job, at).then(
        (url) => (image.src = url),
        () => {},
      );
      const attributes = {
        type: "button",
        "aria-label": `Picture ${at + 1} of ${images.length}`,
        "aria-pressed": String(at === index),
      };
      const choose = () => {
        index = at;
        display();
        parts.strip.children[at].firstChild.focus();
        say(`Picture ${at + 1} of ${images.length}`);
      };
      return el("li", {}, el("button", { ...attributes, class: "thumb", onclick: choose }, image));
    }),
  );
}
