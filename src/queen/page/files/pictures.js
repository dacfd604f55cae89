// Pictures of jobs, fetched with the token and shown by URLs of this tab. `<img>` alone would send no token.

import { ask } from "./api.js";
import { readPicture, writePicture } from "./keep.js";

/** Pictures in full that are in memory. */
const MOST = 16;
/** The longer side of a small one, in pixels. */
const SMALL = 320;

const full = new Map();
const small = new Map();

/** `{ blob, url }` of a picture in full, which stays good while it is among the newest that were asked for. */
export function picture(job, index) {
  const key = `${job.id}/${index}`;
  const found = full.get(key) ?? fetched(job.id, index);
  full.delete(key);
  full.set(key, found);
  found.catch(() => full.delete(key));
  for (const [old, loading] of [...full].slice(0, -MOST)) {
    full.delete(old);
    loading.then(
      ({ url }) => URL.revokeObjectURL(url),
      () => {},
    );
  }
  return found;
}

async function fetched(id, index) {
  const blob = await (await ask(`/v1/jobs/${id}/images/${index}`)).blob();
  return { blob, url: URL.createObjectURL(blob) };
}

/** The URL of a small one; this browser keeps those. */
export function thumbnail(job, index = 0) {
  const key = `${job.id}/small${index}`;
  if (!small.has(key)) {
    small.set(key, made(job, index, key));
    small.get(key).catch(() => small.delete(key));
  }
  return small.get(key);
}

async function made(job, index, key) {
  let blob = await readPicture(key);
  if (!blob) {
    const whole = (await picture(job, index)).blob;
    const bitmap = await createImageBitmap(whole);
    const scale = SMALL / Math.max(bitmap.width, bitmap.height);
    blob = whole;
    if (scale < 1) {
      const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale));
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
    }
    writePicture(key, blob);
  }
  return URL.createObjectURL(blob);
}

/** What a file of a picture is called. */
export function fileName(job, index) {
  const words = job.request.prompt
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "");
  const { format } = job.images[index];
  return `${words.slice(0, 40) || "picture"}-${job.id.slice(0, 6)}-${index + 1}.${format === "jpeg" ? "jpg" : format}`;
}
