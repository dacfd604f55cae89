// A mask as a list of strokes: painted, taken back one by one, drawn again. What is opaque is painted anew.

/** Strokes that can be taken back; older ones become part of the ground. */
const MOST = 200;

export class Mask {
  /** Of a size in pixels, with nothing in it. */
  constructor(width, height) {
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.ground = null;
    this.strokes = [];
  }

  /** Begins a stroke, which `extend` goes on with. */
  begin(x, y, width, erases) {
    this.add({ points: [[x, y]], width, erases });
  }

  extend(x, y) {
    const stroke = this.strokes.at(-1);
    stroke.points.push([x, y]);
    this.draw({ ...stroke, points: stroke.points.slice(-2) });
  }

  rectangle(box, erases) {
    this.add({ box, erases });
  }

  /** As if nothing had been painted. */
  reset() {
    this.ground = null;
    this.strokes = [];
    this.redraw();
  }

  clear() {
    this.rectangle(this.whole(), true);
  }

  invert() {
    this.add({ box: this.whole(), mode: "xor" });
  }

  /** Another mask, of any size: what is white or, in one colour, opaque is painted anew. */
  image(bitmap) {
    this.add({ bitmap });
    const { width, height } = this.canvas;
    const pixels = this.context.getImageData(0, 0, width, height);
    const { data } = pixels;
    for (let at = 0; at < data.length; at += 4) {
      data[at + 3] = (data[at] + data[at + 1] + data[at + 2]) / 3 >= 128 && data[at + 3] >= 128 ? 255 : 0;
    }
    const drawn = new OffscreenCanvas(width, height);
    drawn.getContext("2d").putImageData(pixels, 0, 0);
    this.strokes.at(-1).bitmap = drawn;
    this.redraw();
  }

  undo() {
    this.strokes.pop();
    this.redraw();
  }

  whole() {
    return [0, 0, this.canvas.width, this.canvas.height];
  }

  add(stroke) {
    this.strokes.push(stroke);
    this.draw(stroke);
    if (this.strokes.length <= MOST) return;
    const [oldest, ...others] = this.strokes;
    this.strokes = [oldest];
    this.redraw();
    this.ground = this.canvas.transferToImageBitmap();
    this.strokes = others;
    this.redraw();
  }

  redraw() {
    this.context.globalCompositeOperation = "source-over";
    this.context.clearRect(...this.whole());
    if (this.ground) this.context.drawImage(this.ground, 0, 0);
    for (const stroke of this.strokes) this.draw(stroke);
  }

  draw({ points, width, box, bitmap, erases, mode }) {
    const { context } = this;
    context.globalCompositeOperation = erases ? "destination-out" : (mode ?? (bitmap ? "copy" : "source-over"));
    if (box) context.fillRect(...box);
    else if (bitmap) context.drawImage(bitmap, ...this.whole());
    else {
      Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
      context.beginPath();
      context.moveTo(...points[0]);
      for (const point of points) context.lineTo(...point);
      context.stroke();
    }
  }

  /** The part of the picture that is painted anew, 0 to 1. */
  share() {
    const { data } = this.context.getImageData(...this.whole());
    let painted = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at] >= 128) painted += 1;
    return painted / (data.length / 4);
  }

  /** In one colour on another, or on nothing. */
  shown(colour, ground) {
    const canvas = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const context = canvas.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = colour;
    context.fillRect(...this.whole());
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = ground;
    context.fillRect(...this.whole());
    return canvas;
  }

  /** As a job takes it: a PNG, white where it is painted anew and black where it stays. */
  file() {
    return this.shown("#fff", "#000").convertToBlob();
  }
}
