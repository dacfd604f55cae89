// The picture that a job starts from, and its mask: chosen, dropped or taken from the gallery; kept over a reload.

import { $, show } from "./dom.js";
import { dropPictures, read, readPicture, write, writePicture } from "./keep.js";
import { drawPoints, paint } from "./mask.js";

/** Sides that a job takes, in pixels. */
const [LEAST, MOST] = [64, 2048];
const [PICTURE, MASK, POINTS] = ["form/init_image", "form/mask_image", "rbee.points"];

/** `{ blob, width, height }`, or null. */
let picture = null;
/** A picture, or a list of points `{ x, y, label }` that a worker makes it of; or null. */
let mask = null;
let changed = () => {};
let nativeSize = () => null;

export const source = () => picture;
export const hasMask = () => mask !== null;
const isPointed = () => Array.isArray(mask);

/** The pictures by the names of their fields. */
export function inputs() {
  if (!picture) return {};
  return mask && !isPointed() ? { init_image: picture.blob, mask_image: mask } : { init_image: picture.blob };
}

/** The fields that say what is pointed at. */
export function pointing() {
  if (!isPointed()) return {};
  return { mask_points: mask.map(({ x, y }) => [x, y]), mask_labels: mask.map(({ label }) => label) };
}

export async function start(native, told) {
  [nativeSize, changed] = [native, told];
  $("file").onchange = async () => {
    const [file] = $("file").files;
    $("file").value = "";
    if (file) $("zone").dispatchEvent(new CustomEvent("picture", { detail: file }));
  };
  $("no-source").onclick = () => put(null);
  $("no-mask").onclick = () => putMask(null);
  $("fit-source").onclick = async () => {
    const [width, height] = fitted();
    put(await drawn(await createImageBitmap(picture.blob), width, height));
  };
  $("paint").onclick = () => openMask();
  $("strength").oninput = showStrength;
  const [kept, keptMask] = [await readPicture(PICTURE), await readPicture(MASK)];
  if (kept)
    await load(kept).then(
      (loaded) => put(loaded, false),
      () => put(null),
    );
  const points = read(POINTS, null);
  if (kept && (keptMask || points)) putMask(keptMask ?? points, false);
  showStrength();
}

export function showStrength() {
  $("strength-value").textContent = Number($("strength").value).toFixed(2);
}

export async function openMask() {
  const done = await paint(picture, mask);
  if (done !== undefined) putMask(done);
}

/** Takes a file; throws in words where it is no picture that can be read. */
export async function take(blob) {
  put(await load(blob));
}

async function load(blob) {
  const bitmap = await createImageBitmap(blob).catch(() => {
    throw new Error("This is no picture that the browser reads.");
  });
  const { width, height } = bitmap;
  const scale = Math.min(1, MOST / Math.max(width, height)) * Math.max(1, LEAST / Math.min(width, height));
  // As it is, to the byte, where it can be.
  if (scale === 1) return { blob, width, height };
  return drawn(bitmap, width * scale, height * scale);
}

async function drawn(bitmap, width, height) {
  const side = (length) => Math.min(MOST, Math.max(LEAST, Math.round(length)));
  const canvas = new OffscreenCanvas(side(width), side(height));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return { blob: await canvas.convertToBlob(), width: canvas.width, height: canvas.height };
}

/** The size of about as many pixels as the model's own pictures have. */
function fitted() {
  const native = nativeSize();
  if (!picture || !native) return null;
  const scale = Math.sqrt((native[0] * native[1]) / (picture.width * picture.height));
  const side = (length) => Math.max(LEAST, Math.round((length * scale) / 8) * 8);
  const size = [side(picture.width), side(picture.height)];
  return size[0] === picture.width && size[1] === picture.height ? null : size;
}

function put(next, keep = true) {
  picture = next;
  if (keep) {
    if (next) writePicture(PICTURE, next.blob);
    else dropPictures(PICTURE);
  }
  putMask(null, keep);
}

function putMask(next, keep = true) {
  const isOther = keep && (next === null) !== (mask === null);
  mask = next;
  if (keep) {
    write(POINTS, isPointed() ? next : null);
    if (next && !isPointed()) writePicture(MASK, next);
    else dropPictures(MASK);
  }
  display();
  if (isOther) changed();
}

/** Offers the size that the model draws at its best. */
export function offerSize() {
  const size = fitted();
  show($("fit-source"), size ? `Scale to ${size[0]} × ${size[1]}` : "");
}

function display() {
  const image = $("source-picture");
  URL.revokeObjectURL(image.src);
  URL.revokeObjectURL($("source-mask").src);
  if (picture) image.src = URL.createObjectURL(picture.blob);
  else image.removeAttribute("src");
  if (isPointed()) showPoints();
  else if (mask) $("source-mask").src = URL.createObjectURL(mask);
  else $("source-mask").removeAttribute("src");
  image.hidden = $("source-tools").hidden = !picture;
  $("source-mask").hidden = $("no-mask").hidden = !mask;
  $("paint").lastChild.textContent = mask ? "Change the mask" : "Paint a mask";
  offerSize();
  $("size").hidden = picture !== null;
  show($("size-of-source"), picture ? `Size: ${picture.width} × ${picture.height}, as the picture it starts from` : "");
}

/** Dots, which are seen in the small. */
async function showPoints() {
  const points = mask;
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  drawPoints(canvas.getContext("2d"), points, Math.max(picture.width, picture.height) / 40, "#fff");
  const blob = await canvas.convertToBlob();
  if (mask === points) $("source-mask").src = URL.createObjectURL(blob);
}
