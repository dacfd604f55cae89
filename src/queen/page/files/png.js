// The settings that a PNG carries: our own request as JSON, or the text that A1111 and its kin write. Both are strangers'
// text: of what they say, only fields of the right kind are taken.

const KEYWORDS = ["sd-worker-rbee", "parameters"];
const LONGEST = 1 << 20;

/** The fields of a request, or null: it is no PNG, or says nothing. */
export async function settingsOf(blob) {
  const found = texts(new Uint8Array(await blob.arrayBuffer()));
  const ours = found.get(KEYWORDS[0]);
  const theirs = found.get(KEYWORDS[1]);
  return (ours && fromRequest(ours)) || (theirs && fromInfotext(theirs)) || null;
}

function texts(bytes) {
  const found = new Map();
  const view = new DataView(bytes.buffer);
  if (bytes.length < 8 || view.getUint32(0) !== 0x89504e47) return found;
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const kind = latin1(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (["tEXt", "iTXt"].includes(kind) && length < LONGEST) {
      const zero = data.indexOf(0);
      const keyword = latin1(data.subarray(0, zero));
      if (zero > 0 && KEYWORDS.includes(keyword)) found.set(keyword, text(kind, data.subarray(zero + 1)));
    }
    at += 12 + length;
  }
  return found;
}

const latin1 = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");

function text(kind, data) {
  if (kind === "tEXt") return latin1(data);
  // Compressed or not (ours and A1111's are not), the method, a language and a translated keyword, each to its zero.
  if (data[0]) return "";
  const language = data.indexOf(0, 2);
  return new TextDecoder().decode(data.subarray(data.indexOf(0, language + 1) + 1));
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isText = (value) => typeof value === "string";

function fromRequest(json) {
  let read;
  try {
    read = JSON.parse(json);
  } catch {
    return null;
  }
  if (!isText(read?.prompt)) return null;
  const fields = {};
  for (const key of ["prompt", "negative_prompt", "model", "scheduler", "prompt_syntax"]) {
    if (isText(read[key])) fields[key] = read[key];
  }
  for (const key of ["width", "height", "steps", "guidance_scale", "strength", "clip_skip"]) {
    if (isNumber(read[key])) fields[key] = read[key];
  }
  // As it is written: numbers above 2^53 are others when they have been read.
  const seed = /"seed":(\d{1,20})[,}]/.exec(json)?.[1];
  if (seed) fields.seed = seed;
  if (Array.isArray(read.loras)) {
    fields.loras = read.loras.filter((lora) => isText(lora?.path)).slice(0, 16);
    fields.loras = fields.loras.map(({ path, strength }) => ({ path, strength: isNumber(strength) ? strength : 1 }));
  }
  return fields;
}

const SAMPLERS = {
  DDIM: "ddim",
  "DPM++ 2M": "dpmpp_2m",
  "DPM++ 2M SDE": "dpmpp_2m_sde",
  Euler: "euler",
  "Euler a": "euler_a",
  Heun: "heun",
  LCM: "lcm",
  PLMS: "pndm",
  UniPC: "unipc",
};
const SPREADS = ["karras", "exponential"];

/** Prompt, negative prompt and a last line of `Key: value` pairs. */
function fromInfotext(text) {
  const lines = text.trim().split("\n");
  const last = lines[lines.length - 1];
  const pairs = {};
  if (/^Steps: \d/.test(last)) {
    lines.pop();
    for (const [, key, value] of last.matchAll(/([A-Z][\w .+-]*): ("(?:\\.|[^"\\])*"|[^,]*)(?:, |$)/g))
      pairs[key] = unquoted(value);
  }
  const cut = lines.findIndex((line) => line.startsWith("Negative prompt:"));
  const prompt = lines.slice(0, cut < 0 ? undefined : cut).join("\n");
  const loras = [];
  const cleaned = prompt.replace(/ ?<lora:([^:<>]+):(-?[\d.]+)>/g, (_, path, strength) => {
    loras.push({ path, strength: Number(strength) || 0 });
    return "";
  });
  const fields = { prompt: cleaned.trim(), loras: loras.slice(0, 16) };
  if (cut >= 0) fields.negative_prompt = lines.slice(cut).join("\n").slice("Negative prompt:".length).trim();
  const number = (key, name) => isNumber(Number(pairs[name] ?? NaN)) && (fields[key] = Number(pairs[name]));
  number("steps", "Steps");
  number("guidance_scale", "CFG scale");
  number("strength", "Denoising strength");
  if (/^\d{1,20}$/.test(pairs.Seed ?? "")) fields.seed = pairs.Seed;
  if (pairs.Model) fields.model = pairs.Model;
  const size = /^(\d+)x(\d+)$/.exec(pairs.Size ?? "");
  if (size) [fields.width, fields.height] = [Number(size[1]), Number(size[2])];
  if (pairs.Sampler) fields.scheduler = scheduler(pairs.Sampler, pairs["Schedule type"]);
  return fields;
}

function scheduler(sampler, spread = "") {
  // Older files have both in one: "DPM++ 2M Karras".
  const [, name, own] = /^(.*?)(?: (Karras|Exponential))?$/.exec(sampler);
  const suffix = (own ?? spread).toLowerCase();
  const base = SAMPLERS[name] ?? name;
  return SPREADS.includes(suffix) ? `${base}_${suffix}` : base;
}

function unquoted(value) {
  if (!value.startsWith('"')) return value;
  try {
    return String(JSON.parse(value));
  } catch {
    return value;
  }
}
