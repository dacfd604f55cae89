// The dialog in which a mask is painted: brush, eraser, zoom, mouse, pen, fingers, and numbers for those who have
// none of them. Where a worker makes masks, points may be set in place of painting.

import { $, count } from "./dom.js";
import { canPoint } from "./fleet.js";
import { Mask } from "./paint.js";

const ZOOM_STEP = 1.25;
const [LEAST_ZOOM, MOST_ZOOM] = [0.1, 16];

/** Points that a job may have. */
const MOST_POINTS = 64;
const TOOLS = ["brush", "eraser", "on", "beside"];

/**
 * Lets somebody paint or point; gives the mask as a PNG, or a list of points `{ x, y, label }`, null for nothing, and undefined
 * if it is to stay as it was.
 */
export async function paint(picture, before) {
  const editor = new Editor(await createImageBitmap(picture.blob), picture);
  if (Array.isArray(before)) editor.points = [...before];
  else if (before) editor.mask.image(await createImageBitmap(before));
  return editor.run();
}

class Editor {
  constructor(bitmap, { width, height }) {
    this.bitmap = bitmap;
    this.mask = new Mask(width, height);
    this.canvas = $("mask-canvas");
    Object.assign(this.canvas, { width, height });
    this.context = this.canvas.getContext("2d");
    this.view = $("mask-view");
    this.pointers = new Map();
    this.points = [];
    this.how = "brush";
    this.zoom = 1;
  }

  run() {
    const dialog = $("mask");
    const { view, mask } = this;
    const act = (id, action) => ($(id).onclick = () => (action(), this.display()));
    for (const how of TOOLS) act(`mask-${how}`, () => this.tool(how));
    const painted = (id, paints) => act(id, () => ((this.points = []), paints()));
    act("mask-undo", () => this.undo());
    painted("mask-invert", () => mask.invert());
    painted("mask-clear", () => mask.clear());
    painted("rect-add", () => this.rectangle(false));
    painted("rect-cut", () => this.rectangle(true));
    const numbers = () => [Number($("point-x").value), Number($("point-y").value)];
    act("point-on", () => this.point(numbers(), 1));
    act("point-beside", () => this.point(numbers(), 0));
    for (const id of ["mask-on", "mask-beside", "point-numbers"]) $(id).hidden = !canPoint();
    $("mask-in").onclick = () => this.scale(this.zoom * ZOOM_STEP);
    $("mask-out").onclick = () => this.scale(this.zoom / ZOOM_STEP);
    $("mask-fit").onclick = $("mask-numbers").ontoggle = () => this.fit();
    $("mask-colour").oninput = () => this.display();
    $("mask-file").onchange = async () => {
      const [file] = $("mask-file").files;
      $("mask-file").value = "";
      const bitmap = file && (await createImageBitmap(file).catch(() => null));
      if (bitmap) {
        this.points = [];
        mask.image(bitmap);
      }
      this.display();
      if (file && !bitmap) $("mask-says").textContent = "This is no picture that the browser reads.";
    };
    view.onpointerdown = (event) => this.down(event);
    view.onpointermove = (event) => this.move(event);
    view.onpointerup = (event) => this.up(event);
    view.onpointercancel = (event) => (this.pointers.delete(event.pointerId), this.display());
    view.onpointerleave = () => ($("mask-ring").hidden = true);
    view.onwheel = (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.scale(this.zoom * (event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP), event);
    };
    dialog.onkeydown = (event) => this.key(event);
    const scroll = document.scrollingElement.scrollTop;
    dialog.showModal();
    this.tool(this.points.length && canPoint() ? "on" : "brush");
    this.fit();
    this.display();
    view.focus();
    return new Promise((resolve) => {
      dialog.returnValue = "";
      $("mask-cancel").onclick = () => dialog.close();
      $("mask-done").onclick = () => dialog.close("done");
      dialog.onclose = async () => {
        document.scrollingElement.scrollTop = scroll;
        if (dialog.returnValue !== "done") resolve(undefined);
        else if (this.points.length) resolve(this.points);
        else resolve(mask.share() > 0 ? await mask.file() : null);
      };
    });
  }

  tool(how) {
    this.how = how;
    for (const other of TOOLS) $(`mask-${other}`).setAttribute("aria-pressed", String(other === how));
  }

  isPointing() {
    return this.how === "on" || this.how === "beside";
  }

  /** Takes back the last point, or the last stroke. */
  undo() {
    if (this.points.length) this.points.pop();
    else this.mask.undo();
  }

  /** Sets a point; what was painted goes, as a mask is painted or made, not both. */
  point(place, label) {
    const [x, y] = place.map(Math.floor);
    const isInside = x >= 0 && y >= 0 && x < this.canvas.width && y < this.canvas.height;
    if (!isInside || this.points.length >= MOST_POINTS) return;
    this.mask.reset();
    this.points.push({ x, y, label });
  }

  key(event) {
    if (!(event.ctrlKey || event.metaKey) || event.key !== "z") return;
    event.preventDefault();
    this.undo();
    this.display();
  }

  rectangle(erases) {
    const box = ["rect-x", "rect-y", "rect-w", "rect-h"].map((id) => Math.max(0, Math.round(Number($(id).value))));
    this.mask.rectangle(box, erases);
  }

  /** Where a pointer is, in pixels of the picture; it may be beside it, so that strokes reach its edge. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * this.canvas.width) / box.width,
      ((event.clientY - box.top) * this.canvas.height) / box.height,
    ];
  }

  down(event) {
    if (event.button !== 0 || event.offsetX > this.view.clientWidth || event.offsetY > this.view.clientHeight) return;
    this.view.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 2) {
      // The second finger makes it a pinch, and what the first one has painted was none.
      if (!this.isPointing()) this.mask.undo();
      this.pinch = this.spread();
    } else if (this.pointers.size === 1 && !this.isPointing()) {
      this.points = [];
      this.mask.begin(...this.at(event), this.width(), this.how === "eraser");
    }
    this.display();
    event.preventDefault();
  }

  up(event) {
    // The last finger of a pinch has set no point.
    const isClick = this.pointers.delete(event.pointerId) && !this.pointers.size && !this.pinch;
    if (isClick && this.isPointing()) this.point(this.at(event), this.how === "on" ? 1 : 0);
    this.display();
  }

  /** Of a stroke, in pixels of the picture: up to half of its longer side, finer where it is narrow. */
  width() {
    return Math.max(
      1,
      (Number($("mask-size").value) / 100) ** 1.5 * Math.max(this.canvas.width, this.canvas.height) * 0.5,
    );
  }

  /** Shows where a stroke would go, and how wide. */
  ring({ pointerType, clientX, clientY }) {
    const { style } = $("mask-ring");
    const width = this.width() * this.zoom;
    $("mask-ring").hidden = pointerType === "touch" || this.isPointing();
    style.width = style.height = `${width}px`;
    style.left = `${clientX - width / 2}px`;
    style.top = `${clientY - width / 2}px`;
  }

  move(event) {
    this.ring(event);
    if (!this.pointers.has(event.pointerId)) return;
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 1 && !this.pinch) {
      if (this.isPointing()) return;
      const parts = event.getCoalescedEvents?.() ?? [];
      for (const part of parts.length ? parts : [event]) this.mask.extend(...this.at(part));
      this.display();
    } else if (this.pointers.size === 2) {
      const now = this.spread();
      this.view.scrollLeft += this.pinch.clientX - now.clientX;
      this.view.scrollTop += this.pinch.clientY - now.clientY;
      this.scale((this.zoom * now.apart) / this.pinch.apart, now);
      this.pinch = now;
    }
  }

  spread() {
    const [a, b] = [...this.pointers.values()];
    const apart = Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));
    return { apart, clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
  }

  fit() {
    const { clientWidth, clientHeight } = this.view;
    this.scale(Math.min((clientWidth - 48) / this.canvas.width, (clientHeight - 48) / this.canvas.height, 8));
  }

  /** Zooms, with what is under `centre` staying where it is. */
  scale(zoom, centre) {
    const box = this.view.getBoundingClientRect();
    centre ??= { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
    const [x, y] = this.at(centre);
    this.zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, zoom));
    this.canvas.style.width = `${this.canvas.width * this.zoom}px`;
    $("mask-zoom").textContent = `${Math.round(this.zoom * 100)} %`;
    const [nowX, nowY] = this.at(centre);
    this.view.scrollLeft += (x - nowX) * this.zoom;
    this.view.scrollTop += (y - nowY) * this.zoom;
  }

  display() {
    if (!this.pointers.size) this.pinch = null;
    this.waiting ??= requestAnimationFrame(() => this.compose());
  }

  compose() {
    this.waiting = null;
    const { context, mask } = this;
    context.globalAlpha = 1;
    context.drawImage(this.bitmap, 0, 0, mask.canvas.width, mask.canvas.height);
    context.globalAlpha = 0.65;
    context.drawImage(mask.shown($("mask-colour").value, "transparent"), 0, 0);
    context.globalAlpha = 1;
    drawPoints(context, this.points, 7 / this.zoom, $("mask-colour").value);
    $("mask-undo").disabled = !mask.strokes.length && !this.points.length;
    $("mask-done").disabled = this.points.length > 0 && !this.points.some(({ label }) => label);
    // Not while it is being painted: this is read aloud.
    if (this.pointers.size) return;
    if (this.points.length) {
      $("mask-says").textContent = `${count(this.points.length, "point")}: a worker makes the mask of them`;
      return;
    }
    const share = Math.round(mask.share() * 1000) / 10;
    $("mask-says").textContent = `${share} % is painted anew, ${count(mask.strokes.length, "stroke")}`;
  }
}

/** Points on it are filled, those beside it are not. */
export function drawPoints(context, points, radius, colour) {
  for (const { x, y, label } of points) {
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, radius, 0, 2 * Math.PI);
    Object.assign(context, { fillStyle: colour, strokeStyle: "#000", lineWidth: radius * 0.7 });
    context.stroke();
    Object.assign(context, { strokeStyle: "#fff", lineWidth: radius * 0.3 });
    context.stroke();
    if (label) context.fill();
  }
}
