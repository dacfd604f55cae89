// The form: a request is read from it and put into it, and it is kept over a reload.

import { $, el, show } from "./dom.js";
import { firstModel, models } from "./fleet.js";
import { read, write } from "./keep.js";
import * as source from "./source.js";

const SETTINGS = "rbee.settings";
const TEXTS = ["prompt", "negative_prompt", "model", "scheduler", "seed"];
const NUMBERS = ["width", "height", "steps", "guidance_scale", "clip_skip", "n"];
/** How much of a picture is repainted where a job does not say, as the contract has it. */
const STRENGTH = { image_transform: 0.8, image_inpaint: 1 };
const MOST_LORAS = 16;
/** Previews of a job, about. */
const PREVIEWS = 8;
const USUAL_STEPS = 20;

const form = $("form");

export function start() {
  source.start(nativeSize, sourceChanged);
  fill(read(SETTINGS, {}));
  form.addEventListener("input", keep);
  form.addEventListener("change", keep);
  $("model").addEventListener("change", offer);
  $("add-lora").onclick = () => {
    addLora({ path: "", strength: 1 });
    $("loras").lastElementChild.querySelector("input").focus();
  };
  for (const choice of form.querySelectorAll("[data-shape]")) choice.onclick = () => shape(choice.dataset.shape);
  // It is open where there is room beside the picture.
  $("settings").open = matchMedia("(min-width: 760px)").matches;
}

const keep = () => {
  write(SETTINGS, settings());
  showShape();
};

/** Everything that the form says, without what is left to the model. */
function settings() {
  const fields = {};
  for (const key of TEXTS) if ($(key).value.trim()) fields[key] = $(key).value;
  for (const key of NUMBERS) if ($(key).value !== "") fields[key] = Number($(key).value);
  if ($("prompt_syntax").checked) fields.prompt_syntax = "a1111";
  const loras = [...$("loras").children].map((row) => {
    const [path, strength] = row.querySelectorAll("input");
    return { path: path.value.trim(), strength: Number(strength.value) };
  });
  if (loras.some((lora) => lora.path)) fields.loras = loras.filter((lora) => lora.path);
  fields.strength = Number($("strength").value);
  return fields;
}

/** The request as it is to be sent, or null where a field is wrong, which the browser then says. */
export function request() {
  complain();
  const wrong = [...form.elements].find((field) => !field.checkValidity());
  if (wrong) {
    const name = wrong.labels?.[0]?.textContent.trim() ?? wrong.ariaLabel;
    complain(wrong === $("prompt") ? "Say what to draw." : `${name}: ${wrong.validationMessage}`, wrong);
    return null;
  }
  const { strength, ...fields } = settings();
  if (fields.n === 1) delete fields.n;
  fields.preview_every = Math.max(1, Math.ceil((fields.steps ?? USUAL_STEPS) / PREVIEWS));
  if (!source.source()) return { operation: "image_generation", ...fields };
  delete fields.width;
  delete fields.height;
  return { operation: source.hasMask() ? "image_inpaint" : "image_transform", ...fields, ...source.pointing(), strength };
}

/** Says what is wrong, at the field that it is about. */
export function complain(message = "", field = null) {
  for (const marked of form.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
  show($("form-error"), message);
  // Queen names the field as the request has it.
  const named = field ?? $(/^`(\w+)/.exec(message)?.[1] ?? "");
  if (named && form.contains(named)) {
    named.setAttribute("aria-invalid", "true");
    const around = named.closest("details");
    if (around) around.open = true;
    named.focus();
  }
}

/** Puts a request into the form, whatever of it is there. */
export function fill(fields) {
  for (const key of [...TEXTS, ...NUMBERS]) {
    const field = $(key);
    const value = String(fields[key] ?? (key === "n" ? 1 : ""));
    // What was named is kept, also while nobody serves it.
    if (field.tagName === "SELECT" && value && ![...field.options].some((option) => option.value === value)) {
      field.append(el("option", { value }, value));
    }
    field.value = value;
  }
  $("prompt_syntax").checked = fields.prompt_syntax === "a1111";
  $("strength").value = fields.strength ?? STRENGTH[fields.operation] ?? 0.8;
  source.showStrength();
  $("loras").replaceChildren();
  for (const lora of fields.loras ?? []) addLora(lora);
  keep();
  offer();
}

function addLora({ path, strength = 1 }) {
  if ($("loras").children.length >= MOST_LORAS) return;
  const row = el(
    "li",
    { class: "row" },
    el("input", { value: path, list: "lora-names", "aria-label": "LoRA", placeholder: "its name" }),
    el("input", {
      value: strength,
      type: "number",
      step: "any",
      min: -10,
      max: 10,
      "aria-label": "Strength of the LoRA",
      class: "short",
    }),
    el(
      "button",
      { type: "button", class: "icon", "aria-label": "Remove the LoRA", onclick: () => (row.remove(), keep()) },
      "×",
    ),
  );
  $("loras").append(row);
}

const chosen = () => models().get($("model").value || firstModel());
const nativeSize = () => chosen()?.native ?? null;

/** Offers what the workers have: models, and what the chosen one can do. */
export function offer() {
  const known = models();
  const first = firstModel();
  options($("model"), first ? `The pool's first (${first})` : "The pool's first", known.keys());
  options($("scheduler"), "The model's own", chosen()?.schedulers ?? []);
  const loras = chosen()?.loras ?? [];
  $("lora-names").replaceChildren(...loras.map((value) => el("option", { value })));
  const native = nativeSize();
  $("width").placeholder = native?.[0] ?? "";
  $("height").placeholder = native?.[1] ?? "";
  source.offerSize();
  showShape();
}

function options(select, none, values) {
  const value = select.value;
  const names = new Set(values);
  if (value) names.add(value);
  const wanted = ["", ...names];
  if (wanted.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
    select.replaceChildren(...wanted.map((name) => el("option", { value: name }, name || none)));
    select.value = value;
  }
  select.options[0].textContent = none;
}

const sideways = { square: [1, 1], tall: [3, 4], wide: [4, 3] };

/** Sides in a proportion, of about as many pixels as the model's own size has. */
function sides(name) {
  const [width, height] = nativeSize() ?? [512, 512];
  const [across, down] = sideways[name];
  const unit = Math.sqrt((width * height) / (across * down));
  return [across, down].map((part) => Math.max(64, Math.round((part * unit) / 8) * 8));
}

function shape(name) {
  [$("width").value, $("height").value] = sides(name);
  keep();
}

function showShape() {
  const now = [
    Number($("width").value || $("width").placeholder),
    Number($("height").value || $("height").placeholder),
  ];
  for (const choice of form.querySelectorAll("[data-shape]")) {
    choice.setAttribute("aria-pressed", String(sides(choice.dataset.shape).join() === now.join()));
  }
}

/** A mask is painted over in full unless told otherwise; a picture is changed by a part. */
function sourceChanged() {
  $("strength").value = STRENGTH[source.hasMask() ? "image_inpaint" : "image_transform"];
  source.showStrength();
  keep();
}
